"""Fonts for names of images and classes that are not Latin: none is shipped, those of the system are used."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger("ppcls")

# Of Linux, Windows and macOS, in the order of preference.
_CJK = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",  # what matplotlib calls the collection of all of them
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Arial Unicode MS",
)


@functools.cache
def cjk_font() -> str | None:
    """Name of an installed font with Chinese characters; None, and a line in the log, where there is none."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    found = next((name for name in _CJK if name in installed), None)
    if found is None:
        logger.warning(
            "no font with Chinese characters is installed: they are drawn as boxes; install one, such as Debian's "
            "fonts-noto-cjk"
        )
    return found


def let_read(figure: Figure) -> None:
    """Give every text of ``figure`` that is not ASCII a font that has its characters."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if not text.get_text().isascii():
            family = cjk_font()
            if family is None:
                return
            text.set_fontfamily(["DejaVu Sans", family])
