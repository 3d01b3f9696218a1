"""The keys and shapes of every state_dict are what saved weights rely on: they never change.

``python tests/test_keys.py`` writes that table, ``tests/keys.txt``, for a new mechanism or network.
"""

import hashlib
import sys
from pathlib import Path

import paddle
import pytest

TABLE = Path(__file__).parent / "keys.txt"


def describe(name, state):
    """``name: 12 keys, 3456 values, <digest of the keys and shapes in their order>``."""
    lines = [
        f"{key} {list(value.shape)} {str(value.dtype).rpartition('.')[2]}\n" for key, value in state.items()
    ]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()[:16]
    return f"{name}: {len(lines)} keys, {sum(value.size for value in state.values())} values, {digest}"


def layers():
    """A line for every case of every mechanism."""
    from mechanisms import all_cases

    return [describe(str(case), case.build().state_dict()) for case in all_cases()]


def networks(names=None):
    """A line for every preset."""
    from paddle.utils import unique_name

    from paddle_attention import list_networks, ppcls

    ppcls.register()
    ppcls.init_logger()
    for name in list_networks() if names is None else names:
        with unique_name.guard():
            network = ppcls.build_network({"Arch": {"name": name, "class_num": 10}})
        yield describe(name, network.state_dict())


def stored():
    return TABLE.read_text(encoding="utf-8").splitlines()


def networks_of_the_table():
    return [name for line in stored() if "(" not in (name := line.partition(":")[0])]


def test_keys_of_layers():
    """Those of the table; a mechanism is in it from the first release that has it."""
    now, names = layers(), networks_of_the_table()
    assert [line for line in stored() if line not in now and line.partition(":")[0] not in names] == []


@pytest.mark.parametrize("name", ["SE_ResNet50", "CBAM_ResNet18", "SKNet50", "DA_ResNet50", "GCT_ResNet50"])
def test_keys_of_some_networks(arch, name):
    assert next(networks([name])) in stored()


@pytest.mark.slow
def test_keys_of_all_networks(arch):
    assert [line for line in networks(networks_of_the_table()) if line not in stored()] == []


if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    sys.path[:0] = [str(root), str(root / "tests")]
    paddle.set_device("cpu")
    TABLE.write_text("\n".join([*layers(), *networks()]) + "\n", encoding="utf-8")
