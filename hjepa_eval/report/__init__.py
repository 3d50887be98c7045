"""Reports: result records in, tables and pictures out."""
