"""Shared fixtures. Threads are chosen here, before Paddle is imported anywhere."""

import ctypes
import gc
import logging
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


class Workspace:
    """A directory to run the project's tools in, with the digits in ``dataset/digits``."""

    def __init__(self, path):
        self.path = path
        self.environment = {
            # Neither another PaddleClas nor streams without buffers, which hide what is lost at the end.
            **{k: v for k, v in os.environ.items() if k not in ("PADDLECLAS_HOME", "PYTHONUNBUFFERED")},
            "PYTHONPATH": str(ROOT),
        }

    def run(self, *command, check=True, timeout=900, **environment):
        """Run ``python command``; returns the finished process with its merged output in stdout."""
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=self.path,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            pytest.fail(f"{command} exited with {done.returncode}:\n{done.stdout[-4000:]}")
        return done

    def start_weights(self, config, path):
        """Write the weights that the network of a YAML starts with: what needs a checkpoint need not train."""
        code = (
            "import sys; from paddle_attention import ppcls; from paddle_attention.checkpoint import save_weights; "
            "ppcls.register(); ppcls.init_logger(); config = ppcls.load_config(sys.argv[1]); "
            "save_weights(ppcls.build_network(config, 'export').state_dict(), sys.argv[2])"
        )
        self.run("-c", code, config, path)

    def launch(self, *command, **options):
        """Run ``python command`` in two processes, with Paddle's launcher."""
        launcher = ("-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--log_dir", "launch_log")
        return self.run(*launcher, *command, **options)

    def tool(self, name, config, *overrides, check=True, **environment):
        """Run ``tools/<name>.py -c config -o override...``."""
        options = [word for override in overrides for word in ("-o", override)]
        script = ROOT / "tools" / f"{name}.py"
        return self.run(script, "-c", config, *options, check=check, **environment)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    space = Workspace(tmp_path_factory.mktemp("workspace"))
    space.run("-m", "paddle_attention", "digits")
    return space


@pytest.fixture(scope="session")
def arch():
    """``ppcls.arch`` with this library's networks registered."""
    pytest.importorskip("paddleclas", reason="the extra 'ppcls' is not installed")
    import logging

    from paddle_attention import ppcls

    ppcls.register()
    ppcls.init_logger()
    logging.getLogger("ppcls").setLevel(logging.ERROR)
    import ppcls.arch

    return ppcls.arch


@pytest.fixture(autouse=True, scope="module")
def _memory():
    """Give back to the system what the networks of one file of tests have used."""
    yield
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True)
def _seed():
    import paddle

    paddle.seed(0)


@pytest.fixture
def log_lines():
    """The lines of the logger ``ppcls``, which does not pass them on."""
    lines = []

    class Keep(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    logger = logging.getLogger("ppcls")
    handler, level = Keep(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)
