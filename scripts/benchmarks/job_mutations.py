"""Random changes of a signed job, each of which a hospital must refuse or which changes nothing."""

import contextlib
import copy
import json
import random
from pathlib import Path

from scripts.benchmarks.signed_jobs import JOB_ID, archive_of, meta_of

from consortium.core.errors import ConsortiumError
from consortium.flare.parent.submitted import judge_job
from consortium.study.job_content import BOUND, is_signature
from consortium.study.job_files import read_archive, read_folder
from consortium.study.refusals import REFUSALS

_ODD = (None, True, 0, -1, 2**70, 1e308, "", "x", "../x", [], ["@ALL"], {}, {"path": "os.system"})
_NAMES = (
    "config/config_fed_client.conf",
    "config/settings.json.bak",
    "config/../config/settings.json",
    "custom/planted.py",
    "custom/.hidden",
    "planted",
    ".__nvfl_sig.json",
)


def try_one(kit: Path, signed: Path, other: Path, draw: random.Random) -> str:
    """Changes a job and has it judged.

    Returns:
        The code of the refusal; "" if it was accepted, and then nothing that was signed differs:
        it is one of the two signed jobs as a whole.
    """
    files, meta = read_folder(signed / "app"), meta_of(signed)
    if draw.random() < 0.1:
        archive = _damaged(archive_of(signed), draw)
        code = _refusal_of(lambda: files.clear() or files.update(read_archive(archive)))
        if code:
            return code
    else:
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            _change(files, meta, other, draw)
    code = _refusal_of(lambda: judge_job(kit, files, meta, JOB_ID))
    wholes = [_signed_part(read_folder(job / "app"), meta_of(job)) for job in (signed, other)]
    assert code in REFUSALS or (not code and _signed_part(files, meta) in wholes), code
    return code


def _refusal_of(judge) -> str:
    try:
        judge()
    except ConsortiumError as refused:
        return refused.code
    return ""


def _damaged(archive, draw):
    """Returns an archive with some bytes changed or the end cut off."""
    damaged = bytearray(archive)
    for _ in range(draw.randint(1, 8)):
        damaged[draw.randrange(len(damaged))] = draw.randrange(256)
    return bytes(damaged[: draw.randrange(len(damaged))] if draw.random() < 0.2 else damaged)


def _change(files, meta, other, draw):
    changes = (_bytes, _json, _json, _rename, _remove, _add, _swap, _meta, _meta)
    draw.choice(changes)(files, meta, other, draw)


def _signed_part(files, meta):
    """All of a job that its digest binds, as text."""
    bound = {key: copy.deepcopy(meta.get(key)) for key in BOUND}
    if isinstance(bound["consortium"], dict):
        bound["consortium"].pop("run", None)
    plain = {name: _plain(name, files[name]) for name in files if not is_signature(name)}
    return sorted(plain.items()), json.dumps(bound, sort_keys=True)


def _plain(name, content):
    """The content of a file; of FLARE's configuration the JSON."""
    if "config_fed" in name:
        with contextlib.suppress(ValueError):
            content = json.dumps(json.loads(content), sort_keys=True).encode()
    return content


def _bytes(files, meta, other, draw):
    name = draw.choice(sorted(files))
    content = bytearray(files[name])
    if content:
        content[draw.randrange(len(content))] = draw.randrange(256)
    files[name] = bytes(content)


def _json(files, meta, other, draw):
    """Changes a value somewhere in one of the JSON files."""
    name = draw.choice(sorted(name for name in files if name.endswith(".json")))
    try:
        content = json.loads(files[name])
    except ValueError:
        return
    files[name] = json.dumps(_changed(content, draw)).encode()


def _changed(value, draw):
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(sorted(value))
        choice = draw.random()
        if choice < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if choice < 0.2:
            return {**value, draw.choice(("path", "config_type", "x", key)): draw.choice(_ODD)}
        return {**value, key: _changed(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        return [*value[:place], _changed(value[place], draw), *value[place + 1 :]]
    return draw.choice(_ODD)


def _rename(files, meta, other, draw):
    files[draw.choice(_NAMES)] = files.pop(draw.choice(sorted(files)))


def _remove(files, meta, other, draw):
    del files[draw.choice(sorted(files))]


def _add(files, meta, other, draw):
    files[draw.choice(_NAMES)] = draw.randbytes(draw.randrange(50))


def _swap(files, meta, other, draw):
    """Puts files of another signed job in, its signatures too."""
    theirs = read_folder(other / "app")
    for name in draw.sample(sorted(theirs), draw.randint(1, 3)):
        files[name] = theirs[name]


def _meta(files, meta, other, draw):
    choice = draw.random()
    if choice < 0.3:
        meta.pop(draw.choice(sorted(meta)), None)
    elif choice < 0.5:
        key = draw.choice(("launcher_spec", "scope", "consortium_attempt", "x", "job_id"))
        meta[key] = draw.choice(_ODD)
    else:
        key = draw.choice(sorted(meta))
        meta[key] = _changed(meta[key], draw)
