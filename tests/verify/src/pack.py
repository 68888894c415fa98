"""Packs the functions of a release: the same bytes for the same programs, whenever and wherever it runs.

pack.py zips FOLDER ARCHITECTURE PROGRAM...   a zip of each NAME/bootstrap, as Lambda takes it
pack.py sbom FOLDER PACKAGE...                FOLDER/sbom.cdx.json (CycloneDX 1.5) and FOLDER/SHA256SUMS
"""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import zipfile

# Lambda takes 50 MB; more than a fifth of it would be a mistake.
LARGEST = 10_000_000


def zips(folder, architecture, programs):
    folder.mkdir(parents=True, exist_ok=True)
    for program in programs:
        # The time is a constant, and the mode that of a program that everybody may run.
        entry = zipfile.ZipInfo("bootstrap", (1980, 1, 1, 0, 0, 0))
        entry.create_system, entry.external_attr = 3, 0o100755 << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        # cargo lambda puts each program into a folder of its name.
        file = folder / f"{program.parent.name}-{architecture}.zip"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(entry, program.read_bytes(), compresslevel=9)
        size = file.stat().st_size
        if size > LARGEST:
            sys.exit(f"{file.name} has {size} bytes, more than {LARGEST}")
        print(f"{file.name} {size / 1e6:.1f} MB")


def is_macro(package):
    return any("proc-macro" in target["kind"] for target in package["targets"])


def sbom(folder, packages):
    cargo = [os.environ.get("CARGO", "cargo"), "metadata", "--format-version", "1", "--locked"]
    cargo += ["--filter-platform", "aarch64-unknown-linux-gnu"]
    metadata = json.loads(subprocess.run(cargo, check=True, stdout=subprocess.PIPE).stdout)
    by_id = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    wanted = [package["id"] for package in metadata["packages"] if package["name"] in packages and not package["source"]]
    shipped, edges = set(wanted), {}
    while wanted:
        one = wanted.pop()
        # Not what only tests, build scripts and the compiler use.
        normal = [d["pkg"] for d in nodes[one]["deps"] if any(kind["kind"] is None for kind in d["dep_kinds"])]
        edges[one] = [package for package in normal if not is_macro(by_id[package])]
        wanted += [dependency for dependency in edges[one] if dependency not in shipped]
        shipped.update(edges[one])

    def name(package):
        return f"pkg:cargo/{by_id[package]['name']}@{by_id[package]['version']}"

    sums = {}
    for block in pathlib.Path("Cargo.lock").read_text().split("[[package]]"):
        fields = dict(line.split(" = ", 1) for line in block.splitlines() if " = " in line)
        sums[(fields.get("name"), fields.get("version"))] = fields.get("checksum", "").strip('"')

    def component(package):
        of = by_id[package]
        found = {"type": "library", "bom-ref": name(package), "name": of["name"], "version": of["version"], "purl": name(package)}
        if of["license"]:
            found["licenses"] = [{"expression": of["license"].replace("/", " OR ")}]
        checksum = sums.get((f'"{of["name"]}"', f'"{of["version"]}"'))
        if checksum:
            found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        return found

    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "components": sorted(map(component, shipped), key=lambda found: found["bom-ref"]),
        "dependencies": [
            {"ref": name(one), "dependsOn": sorted(map(name, edges[one]))} for one in sorted(shipped, key=name)
        ],
    }
    (folder / "sbom.cdx.json").write_text(json.dumps(document, indent=1) + "\n")
    files = sorted(file for file in folder.iterdir() if file.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (folder / "SHA256SUMS").write_text("".join(lines))
    print(f"{len(shipped)} packages")


if __name__ == "__main__":
    what, folder, *rest = sys.argv[1:]
    if what == "zips":
        zips(pathlib.Path(folder), rest[0], [pathlib.Path(program) for program in rest[1:]])
    else:
        sbom(pathlib.Path(folder), rest)
