"""Jobs that FLARE's own code signed, people who sign them, and ways to change them afterwards.

For tests and benchmarks of what a hospital accepts.
"""

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.x509.oid import NameOID
from nvflare.fuel.utils.zip_utils import zip_directory_to_bytes
from nvflare.lighter.utils import (
    Identity,
    generate_cert,
    load_private_key_file,
    serialize_cert,
    sign_folders,
)

from consortium.core.json_files import read_json_object
from consortium.study.job_folder import export_job, find_job

JOB_ID = "0adde301-8973-4073-b9ff-b2a1c2067879"
OTHER_ID = "1adde301-8973-4073-b9ff-b2a1c2067879"
RESEARCHER = ("researcher@consortium.example", "coordination", "lead")
Person = tuple[RSAPrivateKey, Path]
"""A person's key, and the file of the certificate."""


def new_key() -> RSAPrivateKey:
    """Draws a key."""
    return generate_private_key(public_exponent=65537, key_size=2048)


def read_key(file: Path) -> RSAPrivateKey:
    """Reads the key of a kit."""
    key: RSAPrivateKey = load_private_key_file(str(file))
    return key


def subject_of(file: Path) -> tuple[str, ...]:
    """Returns name, organisation and role of a certificate."""
    subject = x509.load_pem_x509_certificate(file.read_bytes()).subject
    oids = (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.UNSTRUCTURED_NAME)
    found = [subject.get_attributes_for_oid(oid) for oid in oids]
    return tuple(str(values[0].value) if values else "" for values in found)


class Authority:
    """The root of a consortium, which gives people their certificates.

    Args:
        folder: for the certificates.
    """

    def __init__(self, folder: Path):
        self.key = new_key()
        self._folder, self._name = folder, Identity("consortium")
        folder.mkdir(parents=True, exist_ok=True)
        public = self.key.public_key()
        self.root = generate_cert(self._name, self._name, self.key, public, ca=True)

    def kit(self, folder: Path) -> Path:
        """Makes a folder with the root's certificate where a kit has it."""
        (folder / "startup").mkdir(parents=True)
        (folder / "startup" / "rootCA.pem").write_bytes(serialize_cert(self.root))
        return folder

    def person(
        self,
        name: str = RESEARCHER[0],
        org: str = RESEARCHER[1],
        role: str = RESEARCHER[2],
        **validity: Any,
    ) -> Person:
        """Gives somebody a certificate."""
        key = new_key()
        subject = Identity(name, org, role)
        certificate = generate_cert(subject, self._name, self.key, key.public_key(), **validity)
        file = self._folder / f"{len(list(self._folder.iterdir()))}.crt"
        file.write_bytes(serialize_cert(certificate))
        return key, file


def expired() -> dict[str, datetime]:
    """Returns the validity of a certificate that has ended."""
    start = datetime.now(UTC) - timedelta(days=20)
    return {"not_valid_before": start, "not_valid_after": start + timedelta(days=10)}


def exported(folder: Path, **changes: Any) -> Path:
    """Writes a job of two hospitals as `export-job` does."""
    plain: Mapping[str, Any] = {"hospitals": ["east", "west"], "with_package": False}
    export_job(find_job("tumor_segmentation"), folder, **{**plain, **changes})
    return folder


def sign(job: Path, person: Person) -> Path:
    """Signs a job's folder as FLARE does when it is submitted."""
    key, certificate = person
    for old in job.rglob(".__nvfl_*"):
        old.unlink()
    sign_folders(str(job), key, str(certificate))
    return job


def archive_of(job: Path) -> bytes:
    """Packs a job's app as FLARE deploys it."""
    archive: bytes = zip_directory_to_bytes(str(job / "app"), "")
    return archive


def meta_of(
    job: Path, job_id: str = JOB_ID, submitter: tuple[str, ...] = RESEARCHER
) -> dict[str, Any]:
    """Returns a job's `meta.json` as it comes to a hospital, with the keys that FLARE adds."""
    named = dict(zip(("name", "org", "role"), submitter, strict=True))
    return {
        **read_json_object(job / "meta.json"),
        **{f"submitter_{key}": value for key, value in named.items()},
        "job_id": job_id,
        "job_folder_name": job.name,
        "status": "SUBMITTED",
        "schedule_count": 1,
        "study": "default",
    }


def copy(job: Path, folder: Path) -> Path:
    """Copies a job."""
    shutil.copytree(job, folder)
    return folder


def swap_signature(job: Path, file: Path, other: Path) -> None:
    """Puts a file of another signed job in, with its entry among the signatures."""
    shutil.copy(other / file, job / file)
    ours, theirs = ((path / file).with_name(".__nvfl_sig.json") for path in (job, other))
    signatures = json.loads(ours.read_text())
    signatures[file.name] = json.loads(theirs.read_text())[file.name]
    ours.write_text(json.dumps(signatures))


def take_out(job: Path, file: Path) -> None:
    """Removes a file of a signed job, and its entry among the signatures."""
    (job / file).unlink()
    listed = (job / file).with_name(".__nvfl_sig.json")
    signatures = json.loads(listed.read_text())
    del signatures[file.name]
    listed.write_text(json.dumps(signatures))


def rename(job: Path, file: Path, name: str) -> None:
    """Renames a file of a signed job and its entry, so that its signature stays right."""
    (job / file).rename((job / file).with_name(name))
    listed = (job / file).with_name(".__nvfl_sig.json")
    signatures = json.loads(listed.read_text())
    signatures[name] = signatures.pop(file.name)
    listed.write_text(json.dumps(signatures))
