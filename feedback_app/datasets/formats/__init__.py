"""Import and export formats, one small file each: a new one is a file here and a line in a table."""
