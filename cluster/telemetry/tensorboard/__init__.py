"""What only TensorBoard shows: its files, its pages and the pictures on them."""
