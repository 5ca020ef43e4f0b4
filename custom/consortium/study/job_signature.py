"""Who signed a job, as the job itself proves it.

FLARE signs the content of each file of a job with the key of the submitter's kit, and puts the
submitter's certificate beside the signatures. It signs neither the files' names nor the job as a
whole; `consortium.study.job_content` binds both to `study.json`, whose signature is verified here.
"""

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import MGF1, PSS
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from consortium.core.errors import Refused
from consortium.study.job_json import parse_object

SIGNATURES, CERTIFICATE = ".__nvfl_sig.json", ".__nvfl_submitter.crt"
"""Names of FLARE's files, one of each in every folder of a signed job."""
_MAX_CERTIFICATE = 2**16  # bytes


@dataclass(frozen=True, slots=True)
class Signer:
    """The person who signed a job, as in the certificate.

    Attributes:
        name: FLARE's name of the admin.
        organisation: the admin's.
        role: the admin's, such as `lead`.
    """

    name: str
    organisation: str
    role: str


def verify_signature(
    content: bytes, signatures: bytes, certificate: bytes, root: x509.Certificate, now: datetime
) -> Signer:
    """Verifies FLARE's signature of `study.json` and returns who signed it.

    Args:
        content: of `study.json`.
        signatures: content of the folder's `.__nvfl_sig.json`.
        certificate: content of the folder's `.__nvfl_submitter.crt`; its first certificate counts.
        root: certificate of the consortium's root.
        now: the time at which both certificates must be valid, with a time zone.

    Raises:
        Refused: `bad-signature`, `wrong-signer` or `expired-signer`.
    """
    signer = _read_certificate(certificate, root, now)
    key = signer.public_key()
    try:
        signature = base64.b64decode(
            _text(parse_object(signatures).get("study.json")), validate=True
        )
        if not isinstance(key, RSAPublicKey):
            raise InvalidSignature
        key.verify(signature, content, PSS(MGF1(SHA256()), PSS.MAX_LENGTH), SHA256())
    except (InvalidSignature, binascii.Error, ValueError):
        raise Refused(
            "bad-signature",
            "the job's study.json is not signed by the submitter",
            "study.json",
            "submit the job with FLARE's console, command line or API, which signs it",
        ) from None
    return Signer(
        _only(signer, NameOID.COMMON_NAME),
        _only(signer, NameOID.ORGANIZATION_NAME),
        _only(signer, NameOID.UNSTRUCTURED_NAME),
    )


def _read_certificate(content: bytes, root: x509.Certificate, now: datetime) -> x509.Certificate:
    """Returns the certificate of a person of this consortium."""
    try:
        if len(content) > _MAX_CERTIFICATE:
            raise ValueError
        certificate = x509.load_pem_x509_certificates(content)[0]
        certificate.verify_directly_issued_by(root)
        if certificate == root or _may_sign_others(certificate):
            raise ValueError
    except (InvalidSignature, IndexError, TypeError, ValueError):
        raise _wrong_signer() from None
    for valid in (certificate, root):
        if not valid.not_valid_before_utc <= now <= valid.not_valid_after_utc:
            raise Refused(
                "expired-signer",
                "the submitter's certificate is not valid now",
                "the job",
                "ask the coordinator for a new kit, and check this machine's clock",
            )
    return certificate


def _may_sign_others(certificate: x509.Certificate) -> bool:
    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def _only(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    """Returns the one value of an attribute of the certificate's subject; "" if it has none.

    Raises:
        Refused: `wrong-signer`, if it has several.
    """
    values = certificate.subject.get_attributes_for_oid(oid)
    if len(values) > 1:
        raise _wrong_signer()
    return str(values[0].value) if values else ""


def _wrong_signer() -> Refused:
    return Refused(
        "wrong-signer",
        "the job is not signed with a person's certificate of this consortium",
        "the job",
        "submit it with an admin kit of this consortium",
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value
