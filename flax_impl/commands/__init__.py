"""What the console command `twohead` runs."""
