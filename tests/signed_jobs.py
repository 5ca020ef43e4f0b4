"""Jobs that FLARE's own code signed, people who sign them, and ways to change them afterwards."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from nvflare.fuel.utils.zip_utils import zip_directory_to_bytes
from nvflare.lighter.utils import (
    Identity,
    generate_cert,
    load_private_key_file,
    serialize_cert,
    sign_folders,
)
from tests.conftest import JOB, TINY

from consortium.core.json_files import read_json_object
from consortium.study.job_folder import export_job

JOB_ID = "0adde301-8973-4073-b9ff-b2a1c2067879"
OTHER_ID = "1adde301-8973-4073-b9ff-b2a1c2067879"
RESEARCHER = ("researcher@consortium.example", "coordination", "lead")


def new_key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def read_key(file):
    return load_private_key_file(str(file))


def subject_of(file):
    """Name, organisation and role of a certificate."""
    subject = x509.load_pem_x509_certificate(file.read_bytes()).subject
    oids = (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.UNSTRUCTURED_NAME)
    found = [subject.get_attributes_for_oid(oid) for oid in oids]
    return tuple(values[0].value if values else "" for values in found)


class Authority:
    """The root of a consortium, and the people to whom it gave certificates."""

    def __init__(self, folder):
        self.folder, self.key = folder, new_key()
        folder.mkdir(parents=True, exist_ok=True)
        self.name = Identity("consortium")
        self.root = generate_cert(self.name, self.name, self.key, self.key.public_key(), ca=True)

    def kit(self, folder):
        """A folder with the root's certificate where a kit has it."""
        (folder / "startup").mkdir(parents=True)
        (folder / "startup" / "rootCA.pem").write_bytes(serialize_cert(self.root))
        return folder

    def person(self, name=RESEARCHER[0], org=RESEARCHER[1], role=RESEARCHER[2], **validity):
        """Somebody's key, and the file of the certificate."""
        key = new_key()
        subject = Identity(name, org, role)
        certificate = generate_cert(subject, self.name, self.key, key.public_key(), **validity)
        file = self.folder / f"{len(list(self.folder.iterdir()))}.crt"
        file.write_bytes(serialize_cert(certificate))
        return key, file


def expired():
    """The validity of a certificate that has ended."""
    start = datetime.now(UTC) - timedelta(days=20)
    return {"not_valid_before": start, "not_valid_after": start + timedelta(days=10)}


def exported(folder, **changes):
    """A small job of two hospitals as `export-job` writes it."""
    plain = {"hospitals": ["east", "west"], "assignments": TINY, "with_package": False}
    export_job(JOB, folder, **{**plain, **changes})
    return folder


def sign(job, person):
    """Signs a job's folder as FLARE does when it is submitted."""
    key, certificate = person
    for old in job.rglob(".__nvfl_*"):
        old.unlink()
    sign_folders(str(job), key, str(certificate))
    return job


def archive_of(job):
    """The archive of a job's app, as FLARE deploys it."""
    return zip_directory_to_bytes(str(job / "app"), "")


def meta_of(job, job_id=JOB_ID, submitter=RESEARCHER):
    """A job's `meta.json` as it comes to a hospital, with the keys that FLARE adds."""
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


def copy(job, folder):
    shutil.copytree(job, folder)
    return folder


def swap_signature(job, file, other):
    """Puts a file of another signed job in, with its entry among the signatures."""
    shutil.copy(other / file, job / file)
    ours, theirs = ((path / file).with_name(".__nvfl_sig.json") for path in (job, other))
    signatures = json.loads(ours.read_text())
    name = Path(file).name
    ours.write_text(json.dumps({**signatures, name: json.loads(theirs.read_text())[name]}))


def take_out(job, file):
    """Removes a file of a signed job, and its entry among the signatures."""
    (job / file).unlink()
    listed = (job / file).with_name(".__nvfl_sig.json")
    signatures = json.loads(listed.read_text())
    del signatures[Path(file).name]
    listed.write_text(json.dumps(signatures))


def rename(job, file, name):
    """Renames a file of a signed job and its entry, so that its signature stays right."""
    (job / file).rename((job / file).with_name(name))
    listed = (job / file).with_name(".__nvfl_sig.json")
    signatures = json.loads(listed.read_text())
    signatures[name] = signatures.pop(Path(file).name)
    listed.write_text(json.dumps(signatures))
