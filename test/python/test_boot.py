"""What every Python runs that is started: also those that are older than the package supports."""

import ast
import pathlib
import unittest

BOOT = pathlib.Path(__file__).parents[2] / "python" / "boot"


class Boot(unittest.TestCase):
    def test_old_pythons_read_it(self) -> None:
        for path in BOOT.glob("*.py"):
            tree = ast.parse(path.read_text(), feature_version=(3, 6))
            for node in ast.walk(tree):
                if isinstance(node, (ast.FunctionDef, ast.arg, ast.AnnAssign)):
                    annotation = node.returns if isinstance(node, ast.FunctionDef) else node.annotation
                    unions = [part for part in ast.walk(annotation) if isinstance(part, ast.BinOp)] if annotation else []
                    self.assertEqual(unions, [], f"{path.name}:{node.lineno}: an annotation that Python 3.9 cannot evaluate")


if __name__ == "__main__":
    unittest.main()
