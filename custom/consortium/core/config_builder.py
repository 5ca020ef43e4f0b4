"""Builds what a MONAI bundle configuration describes, for the forms that this package writes.

`monai.bundle.ConfigParser` imports all of MONAI and searches it for every component. This builder
imports the module that a `_target_` names, so a network of torch alone needs no MONAI. It always
builds what MONAI's parser builds, or raises. It builds the package's own configurations only; a
foreign bundle is never evaluated.
"""

import re
from collections.abc import Mapping
from importlib import import_module
from pkgutil import resolve_name
from typing import Any

_TARGET = "_target_"
_REFERENCE = re.compile(r"@(\w+)")
_ITEMS = "_built"
_MODULES = {"torch": "torch", "np": "numpy", "monai": "monai"}
"""Names that an expression may use, as in MONAI's parser."""


class ConfigBuilder:
    """Builds the items of one configuration, each of them once.

    Supports a dictionary with `_target_` (called with the other entries), `@id`, `$expression`, and
    lists and dictionaries of them.

    Args:
        config: items by id.
    """

    def __init__(self, config: Mapping[str, Any]):
        self._config = config
        self._built: dict[str, Any] = {}
        self._open: list[str] = []

    def build(self, name: str) -> Any:
        """Builds an item.

        Raises:
            ValueError: the item, or one that it refers to, is missing, refers to itself, or has a
                form that only MONAI supports.
        """
        if name not in self._built:
            if name not in self._config or name in self._open:
                fault = "refers to itself" if name in self._open else "is missing"
                raise ValueError(f"configuration: {name} {fault}")
            self._open.append(name)
            self._built[name] = self._resolve(self._config[name])
            self._open.pop()
        return self._built[name]

    def _resolve(self, content: Any) -> Any:
        if isinstance(content, Mapping):
            return self._call(content)
        if isinstance(content, list):
            return [self._resolve(part) for part in content]
        if isinstance(content, str):
            return self._read(content)
        return content

    def _call(self, content: Mapping[str, Any]) -> Any:
        unsupported = [key for key in content if key[:1] == "_" and key != _TARGET]
        if unsupported:
            raise ValueError(f"configuration: {unsupported[0]} is not supported")
        arguments = {key: self._resolve(part) for key, part in content.items() if key != _TARGET}
        if _TARGET not in content:
            return arguments
        module, _, attribute = content[_TARGET].rpartition(".")
        return getattr(resolve_name(module), attribute)(**arguments)

    def _read(self, content: str) -> Any:
        if content.startswith("$"):
            return self._evaluate(content[1:])
        if content.startswith("@") and _REFERENCE.fullmatch(content):
            return self.build(content[1:])
        if content.startswith(("@", "%")):
            raise ValueError(f"configuration: {content} is not supported")
        return content

    def _evaluate(self, expression: str) -> Any:
        for name in _REFERENCE.findall(expression):
            self.build(name)
        code = _REFERENCE.sub(rf"{_ITEMS}['\1']", expression)
        # Imports only the modules that are named: importing monai takes seconds.
        names = {
            short: import_module(name)
            for short, name in _MODULES.items()
            if re.search(rf"\b{short}\b", code)
        }
        return eval(code, {**names, _ITEMS: self._built})
