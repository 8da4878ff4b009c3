"""Images: decoding them within bounds, from the bytes of a file to 8-bit RGB."""
