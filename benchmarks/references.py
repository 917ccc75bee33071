"""The packages that are compared with import torchaudio. It is not used here and, as the package index has it, does not
load beside a CPU-only torch. Importing this file first puts an empty module in its place where that is so."""

import importlib.machinery
import sys
import types

try:
    import torchaudio  # noqa: F401
except (ImportError, OSError, RuntimeError):
    for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
        del sys.modules[name]
    empty = types.ModuleType("torchaudio")
    empty.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    sys.modules["torchaudio"] = empty
