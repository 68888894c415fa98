"""Prints CloudFormation templates, by the paths given, as one JSON object, the short forms of functions written out."""

import json
import sys

import yaml


class Loader(yaml.SafeLoader):
    """YAML with CloudFormation's tags."""


def written_out(loader, tag, node):
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if tag in ("Ref", "Condition"):
        return {tag: value}
    if tag == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {"Fn::" + tag: value}


Loader.add_multi_constructor("!", written_out)
# A date stays the text that it is.
for first, resolvers in list(Loader.yaml_implicit_resolvers.items()):
    Loader.yaml_implicit_resolvers[first] = [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":timestamp")]


def load(path):
    with open(path, encoding="utf-8") as file:
        return yaml.load(file, Loader)


json.dump({path: load(path) for path in sys.argv[1:]}, sys.stdout)
