"""The operations of one step: runs it under a dispatch mode, and writes each of them down."""
