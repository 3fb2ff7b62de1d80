"""Records encrypted to one person's key: whoever keeps them cannot read them.

ECIES over secp256k1, so that a payer's own account key opens what is kept of his calls. Format of
an envelope, version 1:

    "OLE1" | ephemeral public key, 33 bytes compressed | sealed object of the vault

    key of the sealed object = HKDF-SHA256(x of the shared point)
        info = "openledger envelope v1" | ephemeral key, 33 bytes | recipient's key, 33 bytes

The curve and HKDF are those of `cryptography`; the sealed object is AES-256-GCM with a commitment
to its key (`storage.vault`), bound to the name that it was sealed under.
"""

from cryptography.exceptions import InvalidKey, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from openledger.core.errors import VerificationError
from openledger.storage.vault import KEY_BYTES, seal, unseal

_MAGIC = b"OLE1"
_POINT_BYTES = 33
_LABEL = b"openledger envelope v1"
_CURVE = ec.SECP256K1()


def seal_to(public_key: bytes, name: str, content: bytes) -> bytes:
    """Encrypt to a key.

    Args:
        public_key: 64 bytes, x then y.
        name: what it is; opening asks for the same.
        content: of any size.

    Raises:
        VerificationError: the key is no point of the curve.
    """
    recipient = _point(b"\x04" + public_key)
    ephemeral = ec.generate_private_key(_CURVE)
    opened = _compressed(ephemeral.public_key())
    key = _derived(ephemeral, recipient, opened + _compressed(recipient))
    return _MAGIC + opened + seal(key, name, content)


def open_envelope(private_key: bytes, name: str, envelope: bytes) -> bytes:
    """Decrypt with the 32 bytes of the recipient's key.

    Raises:
        VerificationError: it is sealed to another key, under another name, or was altered.
    """
    if not is_envelope(envelope):
        raise VerificationError(f"{name} is no envelope of version 1")
    own = ec.derive_private_key(int.from_bytes(private_key, "big"), _CURVE)
    opened = envelope[len(_MAGIC) : len(_MAGIC) + _POINT_BYTES]
    key = _derived(own, _point(opened), opened + _compressed(own.public_key()))
    return unseal(key, name, envelope[len(_MAGIC) + _POINT_BYTES :])


def is_envelope(sealed: bytes) -> bool:
    """Whether these bytes are sealed to a person, and not under the home's key."""
    return sealed[: len(_MAGIC)] == _MAGIC


def _derived(own: ec.EllipticCurvePrivateKey, other: ec.EllipticCurvePublicKey, to: bytes) -> bytes:
    shared = own.exchange(ec.ECDH(), other)
    return HKDF(SHA256(), length=KEY_BYTES, salt=None, info=_LABEL + to).derive(shared)


def _point(raw: bytes) -> ec.EllipticCurvePublicKey:
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, raw)
    except (ValueError, InvalidKey, UnsupportedAlgorithm) as error:
        raise VerificationError("an envelope's key is no point of secp256k1") from error


def _compressed(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
