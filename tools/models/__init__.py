"""Models: versions of ONNX files as rows that replicate, and what flows need to run them."""
