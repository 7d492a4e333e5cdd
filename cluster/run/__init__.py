"""What a run is on disk and on the command line: config, presets, folder, checkpoints, messages, errors."""
