"""The shape of the code: the rules that ``tools/structure.py`` measures, and that what is imported is declared."""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Names of modules to names of packages.
PACKAGES = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "ppcls": "paddleclas",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "paddle": "paddlepaddle",
}
OPTIONAL = {"torch"}  # with a message that says how to get it


def test_rules():
    done = subprocess.run(
        [sys.executable, ROOT / "tools/structure.py"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_imported_is_declared():
    declared = set(re.findall(r'"([A-Za-z_][\w.-]*?)(?:[<>=].*?)?"', (ROOT / "setup.py").read_text()))
    missing = set()
    for path in (ROOT / "paddle_attention").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in (n.split(".")[0] for n in names):
                known = name in sys.stdlib_module_names or name in OPTIONAL or name == "paddle_attention"
                if not known and PACKAGES.get(name, name) not in declared:
                    missing.add(f"{path.relative_to(ROOT)}: {name}")
    assert sorted(missing) == []
