"""Files of any format in, documents with exact offsets out; every parser runs in a limited child process."""
