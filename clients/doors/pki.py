"""Certificates of a test: made by openssl, gone with the test."""

import subprocess

P256 = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


def openssl(*arguments, cwd):
    done = subprocess.run(["openssl", *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Authority:
    """A CA with a directory of its own, so that it can revoke."""

    def __init__(self, directory, name):
        self.dir = directory / name
        self.dir.mkdir()
        self.name = name
        (self.dir / "index").touch()
        (self.dir / "serial").write_text("1000\n")
        (self.dir / "number").write_text("1000\n")
        (self.dir / "conf").write_text(
            "[ca]\ndefault_ca=own\n[own]\ndir=.\ndatabase=index\nserial=serial\n"
            "crlnumber=number\nnew_certs_dir=.\ncertificate=ca.pem\nprivate_key=ca.key\n"
            "default_md=sha256\ndefault_days=30\ndefault_crl_days=30\npolicy=any\n"
            "unique_subject=no\ncopy_extensions=copy\n[any]\ncommonName=supplied\n"
        )
        openssl(
            "req", "-x509", *P256, "-keyout", "ca.key", "-out", "ca.pem", "-subj", f"/CN={name}",
            "-days", "30", "-addext", "keyUsage=critical,keyCertSign,cRLSign", cwd=self.dir,
        )
        self.pem = self.dir / "ca.pem"

    def issue(self, name, names="DNS:localhost,IP:127.0.0.1", expired=False):
        """A certificate for the common name `name`; paths of it and its key."""
        stem = name.replace(".", "-") + ("-expired" if expired else "")
        key, pem = self.dir / f"{stem}.key", self.dir / f"{stem}.pem"
        openssl(
            "req", *P256, "-keyout", key.name, "-out", f"{stem}.csr", "-subj", f"/CN={name}",
            "-addext", f"subjectAltName={names}", cwd=self.dir,
        )
        days = ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"] if expired else []
        openssl(
            "ca", "-batch", "-notext", "-config", "conf", "-in", f"{stem}.csr", "-out", pem.name,
            *days, cwd=self.dir,
        )
        return pem, key

    def revoke(self, *certificates):
        """Revokes; the path of the list."""
        for pem in certificates:
            openssl("ca", "-config", "conf", "-revoke", pem.name, cwd=self.dir)
        openssl("ca", "-config", "conf", "-gencrl", "-out", "crl.pem", cwd=self.dir)
        return self.dir / "crl.pem"
