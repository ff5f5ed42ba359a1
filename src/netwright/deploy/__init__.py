"""7 deploy: one C file, ONNX, and the bundle that carries them.

`deploy.c99.emit` makes C from a Graph, `deploy.loader.CompiledModel` runs it, `deploy.bundle.write_bundle` keeps it.
"""
