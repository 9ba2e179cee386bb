"""Certificates made on the spot."""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HERE = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
ELSEWHERE = [x509.DNSName("elsewhere.test")]


class Authority:
    """Who signs certificates, and revokes them."""

    def __init__(self, directory, name):
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = subject(name)
        builder = basic(self.name, self.name, self.key.public_key(), in_days(-1), in_days(30))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        usage = x509.KeyUsage(digital_signature=False, content_commitment=False, key_encipherment=False,
                              data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
                              encipher_only=False, decipher_only=False)
        certificate = builder.add_extension(usage, critical=True).sign(self.key, hashes.SHA256())
        self.file = write(directory / f"{name}-ca.crt", certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, file, common_name, names=(), expired=False):
        """Writes `file`.crt, `file`.key and the key as pgjdbc wants it; gives the first two, and the serial number."""
        key = ec.generate_private_key(ec.SECP256R1())
        begin, end = (in_days(-30), in_days(-1)) if expired else (in_days(-1), in_days(30))
        builder = basic(subject(common_name), self.name, key.public_key(), begin, end)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        none = serialization.NoEncryption()
        der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, none)
        write(self.directory / f"{file}.pk8", der)
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none)
        return (
            write(self.directory / f"{file}.crt", certificate.public_bytes(serialization.Encoding.PEM)),
            write(self.directory / f"{file}.key", pem),
            certificate.serial_number,
        )

    def revoke(self, *serial_numbers):
        """A list of revoked certificates."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name)
        builder = builder.last_update(in_days(-1)).next_update(in_days(30))
        for number in serial_numbers:
            revoked = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(in_days(-1)).build()
            builder = builder.add_revoked_certificate(revoked)
        crl = builder.sign(self.key, hashes.SHA256())
        return write(self.directory / "revoked.crl", crl.public_bytes(serialization.Encoding.PEM))


def in_days(days):
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)


def subject(common_name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def basic(whose, by, key, begin, end):
    builder = x509.CertificateBuilder().subject_name(whose).issuer_name(by).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(end)


def write(path, content):
    """Writes a file that only its owner reads, in one step for whoever looks at it."""
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_bytes(content)
    fresh.rename(path)
    return str(path)
