//! CloudFormation templates, taken apart: read as data, and resolved for a choice of parameters as CloudFormation would.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

/// The account, the Region and the partition that templates are resolved for.
pub const ACCOUNT: &str = "000000000000";
/// The Region.
pub const REGION: &str = "us-east-1";

/// The main template and those that it nests, by their paths.
pub const MAIN: &str = "template.yaml";
/// All templates.
pub const ALL: [&str; 5] =
    [MAIN, "infra/access.yaml", "infra/monitoring.yaml", "infra/archive.yaml", "infra/network.yaml"];

/// The root of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_path_buf()
}

/// A program of `target/template-tools`.
///
/// # Errors
/// When it is not there: without it a test would prove nothing.
pub fn tool(name: &str) -> Result<Command, String> {
    let program = root().join("target/template-tools/bin").join(name);
    if !program.is_file() {
        return Err(format!("{name} is missing: `cargo verify` installs it into target/template-tools"));
    }
    let mut command = Command::new(program);
    settle(&mut command);
    Ok(command)
}

/// Runs a tool in the repository, and with nothing of this machine's AWS configuration.
pub fn settle(command: &mut Command) {
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("AWS_") {
            command.env_remove(variable);
        }
    }
    command.current_dir(root()).stdin(Stdio::null());
    command.envs([("SAM_CLI_TELEMETRY", "0"), ("AWS_DEFAULT_REGION", REGION)]);
}

/// The templates as they are written, the short forms of functions written out.
#[derive(Clone, Debug)]
pub struct Templates(BTreeMap<String, Value>);

impl Templates {
    /// Reads all of them.
    ///
    /// # Errors
    /// When the tools are missing, or a template is no YAML.
    pub fn load() -> Result<Self, String> {
        let mut python = tool("python")?;
        python.arg("-B").arg(root().join("tests/template/src/to_json.py")).args(ALL);
        let output = python.output().map_err(|error| format!("python: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        serde_json::from_slice(&output.stdout).map(Self).map_err(|error| error.to_string())
    }

    /// One of them, as it is written.
    #[must_use]
    pub fn written(&self, path: &str) -> &Value {
        self.0.get(path).unwrap_or(&Value::Null)
    }

    /// The main template for these parameters; others have their defaults. `attributes` are what `Ref` and `Fn::GetAtt` of
    /// resources give, such as `AdminTokenSecret` or `SecretsKey.Arn`; others are made up from their names.
    ///
    /// # Errors
    /// What cannot be resolved, by name; or what a rule of the template says to these parameters.
    pub fn resolve(&self, parameters: &[(&str, &str)], attributes: &BTreeMap<String, String>) -> Result<Stack, String> {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        Resolver::new(self, MAIN, parameters, attributes)?.stack()
    }
}

/// A template without functions.
#[derive(Clone, Debug)]
pub struct Stack {
    /// The resources whose conditions hold, SAM's globals put in.
    pub resources: BTreeMap<String, Value>,
    /// The outputs' values.
    pub outputs: BTreeMap<String, Value>,
    /// The nested stacks.
    pub nested: BTreeMap<String, Stack>,
}

impl Stack {
    /// The resources of a type, here and in nested stacks, by their names.
    #[must_use]
    pub fn of_type(&self, kind: &str) -> BTreeMap<&str, &Value> {
        let mut found: BTreeMap<&str, &Value> = self
            .resources
            .iter()
            .filter(|(_, resource)| resource["Type"] == kind)
            .map(|(name, resource)| (name.as_str(), &resource["Properties"]))
            .collect();
        self.nested.values().for_each(|stack| found.extend(stack.of_type(kind)));
        found
    }
}

struct Resolver<'a> {
    templates: &'a Templates,
    template: &'a Value,
    parameters: BTreeMap<String, Value>,
    attributes: &'a BTreeMap<String, String>,
    nested: BTreeMap<String, Stack>,
}

/// `None` is `AWS::NoValue`.
type Resolved = Result<Option<Value>, String>;

impl<'a> Resolver<'a> {
    fn new(
        templates: &'a Templates,
        path: &str,
        given: BTreeMap<String, Value>,
        attributes: &'a BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let template = templates.0.get(path).ok_or_else(|| format!("no template {path}"))?;
        let declared = template["Parameters"].as_object().cloned().unwrap_or_default();
        if let Some(unknown) = given.keys().find(|name| !declared.contains_key(*name)) {
            return Err(format!("{path} has no parameter {unknown}"));
        }
        let mut parameters = BTreeMap::new();
        for (name, declaration) in &declared {
            let value = given.get(name).or_else(|| declaration.get("Default"));
            let value = value.ok_or_else(|| format!("{path}: the parameter {name} has no value"))?;
            let list = declaration["Type"].as_str().is_some_and(|kind| kind.contains("List"));
            let text = text(value);
            let value = match (list, text.as_str()) {
                (true, "") => json!([]),
                (true, text) => text.split(',').map(str::to_owned).collect(),
                (false, _) => json!(text),
            };
            parameters.insert(name.clone(), value);
        }
        Ok(Self { templates, template, parameters, attributes, nested: BTreeMap::new() })
    }

    fn stack(mut self) -> Result<Stack, String> {
        self.check_rules()?;
        let written = self.template["Resources"].as_object().cloned().unwrap_or_default();
        for (name, resource) in &written {
            if resource["Type"] == "AWS::CloudFormation::Stack" && self.holds(&resource["Condition"])? {
                let path = resource["Properties"]["TemplateURL"].as_str().unwrap_or_default();
                let given = self.resolve(&resource["Properties"]["Parameters"])?.unwrap_or_default();
                let given = given.as_object().cloned().unwrap_or_default().into_iter().collect();
                let stack = Resolver::new(self.templates, path, given, self.attributes)?.stack()?;
                self.nested.insert(name.clone(), stack);
            }
        }
        let mut resources = BTreeMap::new();
        for (name, resource) in &written {
            if self.holds(&resource["Condition"])? {
                let mut resource = resource.clone();
                if resource["Type"] == "AWS::Serverless::Function" {
                    let mut properties = self.template["Globals"]["Function"].clone();
                    merge(&mut properties, &resource["Properties"]);
                    resource["Properties"] = properties;
                }
                resources.extend(self.resolve(&resource)?.map(|resource| (name.clone(), resource)));
            }
        }
        let mut outputs = BTreeMap::new();
        for (name, output) in self.template["Outputs"].as_object().into_iter().flatten() {
            if self.holds(&output["Condition"])? {
                outputs.extend(self.resolve(&output["Value"])?.map(|value| (name.clone(), value)));
            }
        }
        Ok(Stack { resources, outputs, nested: self.nested })
    }

    /// What the template's rules say to the parameters, before anything is made of them.
    fn check_rules(&self) -> Result<(), String> {
        for (name, rule) in self.template["Rules"].as_object().into_iter().flatten() {
            if let Some(condition) = rule.get("RuleCondition")
                && !self.test(condition)?
            {
                continue;
            }
            for assertion in rule["Assertions"].as_array().ok_or_else(|| format!("{name} asserts nothing"))? {
                if !self.test(&assertion["Assert"])? {
                    return Err(format!("{name}: {}", text(&assertion["AssertDescription"])));
                }
            }
        }
        Ok(())
    }

    /// Whether the condition of this name holds; none always does.
    fn holds(&self, name: &Value) -> Result<bool, String> {
        match name.as_str() {
            None => Ok(true),
            Some(name) => {
                self.test(self.template["Conditions"].get(name).ok_or_else(|| format!("there is no condition {name}"))?)
            }
        }
    }

    fn test(&self, condition: &Value) -> Result<bool, String> {
        let (function, argument) = call(condition).ok_or_else(|| format!("not a condition: {condition}"))?;
        let of = |index: usize| self.test(&argument[index]);
        match function {
            "Condition" => self.holds(argument),
            "Fn::Not" => Ok(!of(0)?),
            "Fn::And" => Ok(of(0)? && of(1)?),
            "Fn::Or" => {
                let sides = argument.as_array().into_iter().flatten();
                sides.map(|side| self.test(side)).try_fold(false, |any, side| Ok(any || side?))
            }
            "Fn::Equals" => {
                let side = |index: usize| Ok::<_, String>(self.resolve(&argument[index])?.map(|value| text(&value)));
                Ok(side(0)? == side(1)?)
            }
            _ => Err(format!("{function} is not known here")),
        }
    }

    fn resolve(&self, value: &Value) -> Resolved {
        if let Some((function, argument)) = call(value) {
            return self.apply(function, argument);
        }
        match value {
            Value::Array(items) => {
                let mut resolved = vec![];
                for item in items {
                    resolved.extend(self.resolve(item)?);
                }
                Ok(Some(Value::Array(resolved)))
            }
            Value::Object(members) => {
                let mut resolved = Map::new();
                for (name, member) in members {
                    resolved.extend(self.resolve(member)?.map(|member| (name.clone(), member)));
                }
                Ok(Some(Value::Object(resolved)))
            }
            _ => Ok(Some(value.clone())),
        }
    }

    fn apply(&self, function: &str, argument: &Value) -> Resolved {
        match function {
            "Ref" => self.reference(argument.as_str().unwrap_or_default()),
            "Fn::If" => {
                let branch = if self.holds(&argument[0])? { &argument[1] } else { &argument[2] };
                self.resolve(branch)
            }
            "Fn::GetAtt" => {
                let part = |index: usize| argument[index].as_str().unwrap_or_default();
                self.attribute(part(0), part(1)).map(Some)
            }
            "Fn::Join" => {
                let items = self.resolve(&argument[1])?.unwrap_or_default();
                let items: Vec<String> = items.as_array().into_iter().flatten().map(text).collect();
                Ok(Some(json!(items.join(argument[0].as_str().unwrap_or_default()))))
            }
            "Fn::Split" => {
                let whole = text(&self.resolve(&argument[1])?.unwrap_or_default());
                let parts = whole.split(argument[0].as_str().unwrap_or_default());
                Ok(Some(parts.map(str::to_owned).collect()))
            }
            "Fn::FindInMap" => {
                let mut found = &self.template["Mappings"];
                let keys = self.resolve(argument)?.unwrap_or_default();
                for key in keys.as_array().into_iter().flatten() {
                    found = found.get(text(key)).ok_or_else(|| format!("nothing at {keys} in the mappings"))?;
                }
                Ok(Some(found.clone()))
            }
            "Fn::Sub" => self.substitute(argument.as_str().ok_or("Fn::Sub with variables is not known here")?),
            _ => Err(format!("{function} is not known here")),
        }
    }

    fn substitute(&self, pattern: &str) -> Resolved {
        let (mut result, mut rest) = (String::new(), pattern);
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after.split_once('}').ok_or_else(|| format!("no end of a place in {pattern}"))?;
            result.push_str(before);
            let value = match name.split_once('.') {
                Some((resource, attribute)) => Some(self.attribute(resource, attribute)?),
                None => self.reference(name)?,
            };
            result.push_str(&text(&value.ok_or_else(|| format!("{name} is nothing"))?));
            rest = after;
        }
        Ok(Some(json!(result + rest)))
    }

    fn reference(&self, name: &str) -> Resolved {
        if let Some(value) = self.parameters.get(name) {
            return Ok(Some(value.clone()));
        }
        Ok(Some(json!(match name {
            "AWS::NoValue" => return Ok(None),
            "AWS::AccountId" => ACCOUNT,
            "AWS::Region" => REGION,
            "AWS::Partition" => "aws",
            "AWS::URLSuffix" => "amazonaws.com",
            "AWS::StackId" => "arn:aws:cloudformation:us-east-1:000000000000:stack/this/0123",
            _ => return self.made(name, None).map(Some),
        })))
    }

    fn attribute(&self, resource: &str, attribute: &str) -> Result<Value, String> {
        match (self.nested.get(resource), attribute.strip_prefix("Outputs.")) {
            (Some(stack), Some(output)) => {
                stack.outputs.get(output).cloned().ok_or_else(|| format!("{resource} has no output {output}"))
            }
            // A nested stack's parameters are resolved before it is: its outputs cannot be in them.
            (None, Some(output)) => Err(format!("{resource}.{output} is used before it is there")),
            (_, None) => self.made(resource, Some(attribute)),
        }
    }

    /// What AWS would make up when the resource is created.
    fn made(&self, name: &str, attribute: Option<&str>) -> Result<Value, String> {
        let key = attribute.map_or(name.to_owned(), |attribute| format!("{name}.{attribute}"));
        if let Some(value) = self.attributes.get(&key) {
            return Ok(json!(value));
        }
        let resource = self.template["Resources"].get(name).ok_or_else(|| format!("there is no {name}"))?;
        let named = |property: &str| {
            let value = self.resolve(&resource["Properties"][property])?;
            Ok::<_, String>(value.filter(|value| !value.is_null()).map_or(name.to_owned(), |value| text(&value)))
        };
        let arn = |service: &str, rest: String| format!("arn:aws:{service}:{REGION}:{ACCOUNT}:{rest}");
        let kind = resource["Type"].as_str().unwrap_or_default();
        Ok(json!(match (kind, attribute) {
            ("AWS::SecretsManager::Secret", None) => arn("secretsmanager", format!("secret:{}-AbCdEf", named("Name")?)),
            ("AWS::Serverless::Function", None) => named("FunctionName")?,
            ("AWS::Serverless::Function", _) => arn("lambda", format!("function:{}", named("FunctionName")?)),
            ("AWS::Logs::LogGroup", None) => named("LogGroupName")?,
            ("AWS::Logs::LogGroup", Some(_)) => arn("logs", format!("log-group:{}:*", named("LogGroupName")?)),
            ("AWS::SNS::Topic", None) => arn("sns", named("TopicName")?),
            ("AWS::KMS::Key", Some(_)) => arn("kms", format!("key/{name}")),
            ("AWS::IAM::Role", Some(_)) => format!("arn:aws:iam::{ACCOUNT}:role/{name}"),
            ("AWS::IAM::ManagedPolicy", None) => format!("arn:aws:iam::{ACCOUNT}:policy/{name}"),
            ("AWS::CloudWatch::Alarm", Some(_)) => arn("cloudwatch", format!("alarm:{}", named("AlarmName")?)),
            ("AWS::CloudWatch::Dashboard", None) => named("DashboardName")?,
            ("AWS::S3::Bucket", None) => named("BucketName")?,
            ("AWS::S3::Bucket", Some(_)) => format!("arn:aws:s3:::{}", named("BucketName")?),
            ("AWS::KMS::Key" | "AWS::EC2::SecurityGroup" | "AWS::CloudFormation::Stack", None) => name.to_owned(),
            _ => return Err(format!("what {key} of a {kind} gives is not known here")),
        }))
    }
}

/// A function with its argument: an object with this one member.
fn call(value: &Value) -> Option<(&str, &Value)> {
    let members = value.as_object().filter(|members| members.len() == 1)?;
    let (name, argument) = members.iter().next()?;
    let condition = name == "Condition" && argument.is_string();
    (name == "Ref" || name.starts_with("Fn::") || condition).then_some((name.as_str(), argument))
}

/// A scalar as CloudFormation writes it into a text.
#[must_use]
pub fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// SAM's globals: members of the resource win, objects are put together. A function such as `Ref` is no object (SAM, Globals section).
fn merge(base: &mut Value, over: &Value) {
    let functions = call(base).is_some() || call(over).is_some();
    match (base, over) {
        (Value::Object(base), Value::Object(over)) if !functions => {
            for (name, value) in over {
                merge(base.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}
