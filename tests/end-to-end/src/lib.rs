//! A scene: the sandbox, a built rotation function, a secret, and instances of the sample application behind one address.

pub mod connections;
mod delivery;
mod plan;
pub mod postgres;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use application::{
    CacheSettings, Connections, Database, Instance, InstanceSettings, KeySettings, Load, LoadBalancer, LoadSettings,
    RecordLoad, RecordLoadSettings, RecordReport, SecretReference, ServiceClock, ServiceSettings, TOKEN_HEADER,
    TokenSource,
};
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::types::{RotationRulesType, Tag};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioExecutor;
use sandbox::lambda_host::FunctionConfig;
use sandbox::{RotationOutcome, Sandbox};
use serde_json::Value;

pub use crate::delivery::{ConsumerPlan, DELIVER, EVENT_TOPIC};
pub use crate::plan::{KeyPlan, Plan};

/// What can go wrong in a scene; it ends the test or the demo.
pub type Failure = Box<dyn Error + Send + Sync>;

/// The function that rotates admin tokens.
pub const FUNCTION: &str = "admin-token";
/// The secret with the admin token.
pub const SECRET: &str = "shop/production/admin-token";
/// The prefix of the names that the function may rotate.
pub const PREFIX: &str = "shop/";
/// The member that is rotated in a JSON secret.
pub const FIELD: &str = "ADMIN_TOKEN";
/// The function that rotates encryption keys.
pub const KEY_FUNCTION: &str = "encryption-key";
/// The secret with the keyring.
pub const KEY_SECRET: &str = "shop/production/encryption-key";
/// The member that holds the primary key in a JSON secret.
pub const KEY_FIELD: &str = "TOKEN_ENCRYPTION_KEY";
/// The function for operators.
pub const OPERATE: &str = "operate";
/// The admin token of an application whose keyring is rotated.
pub const ADMIN_TOKEN: &str = "the-admin-token-of-an-application-whose-keys-are-rotated-0123456";
/// The longest that a rotation may take in real time.
pub const ROTATION_TIMEOUT: Duration = Duration::from_secs(60);

/// A running scene. Everything ends when it is dropped.
pub struct Scene {
    /// The AWS.
    pub sandbox: Sandbox,
    /// A client of Secrets Manager with the rights of a person.
    pub client: Client,
    /// The application.
    pub instances: Vec<Instance>,
    /// The address in front of it.
    pub balancer: LoadBalancer,
    /// What the instances have encrypted.
    pub database: Database,
    clock: ServiceClock,
    /// The variables of the rotation function.
    environment: BTreeMap<String, String>,
    function: &'static str,
    secret: SecretReference,
}

impl Scene {
    /// Builds the function if need be, starts the sandbox, makes the secret, starts the application, and registers the
    /// function for it. The secret has no rotation yet.
    ///
    /// # Errors
    /// When any of that fails.
    pub async fn start(plan: Plan) -> Result<Self, Failure> {
        let executable = match plan.executable.clone() {
            Some(executable) => executable,
            None => program(plan.function).await?,
        };
        let sandbox = Sandbox::start(plan.sandbox.clone()).await?;
        let clock = ServiceClock::default();
        let client = settings(&sandbox.endpoint())?.client(&clock);

        let field_tag = plan.field.map(|field| ("rotation:field", field));
        let tags = plan.tags.iter().copied().chain(field_tag);
        client
            .create_secret()
            .name(plan.secret)
            .set_secret_string(plan.value.clone())
            .set_tags(Some(tags.map(|(key, value)| Tag::builder().key(key).value(value).build()).collect()))
            .send()
            .await?;

        let secret = SecretReference { id: plan.secret.to_owned(), field: plan.field.map(str::to_owned) };
        let mut admin = secret.clone();
        if plan.keys.is_some() {
            client.create_secret().name(SECRET).secret_string(ADMIN_TOKEN).send().await?;
            admin = SecretReference { id: SECRET.to_owned(), field: None };
        }
        for (name, value) in &plan.others {
            client.create_secret().name(*name).secret_string(value).send().await?;
        }
        delivery::start_services(&plan, &sandbox).await?;
        let (instances, database) = start_instances(&plan, &client, &clock, &secret, &admin).await?;
        let balancer = LoadBalancer::start(instances.iter().map(Instance::address).collect()).await?;

        let environment = variables(&plan, &sandbox, &balancer);
        sandbox.host().register(FunctionConfig {
            name: plan.function.to_owned(),
            executable,
            environment: environment.clone(),
            timeout: plan.timeout,
            memory_mb: 128,
        })?;
        delivery::register(&plan, &sandbox, &environment).await?;
        Ok(Self { sandbox, client, instances, balancer, database, clock, environment, function: plan.function, secret })
    }

    /// Builds the function for operators if need be, and registers it beside the rotation function, with the same variables and
    /// these.
    ///
    /// # Errors
    /// When it cannot be built or registered.
    pub async fn with_operator(self, variables: &[(&str, &str)]) -> Result<Self, Failure> {
        let executable = program(OPERATE).await?;
        self.with_operator_at(executable, variables)
    }

    /// The same with a program that was built already.
    ///
    /// # Errors
    /// When it cannot be registered.
    pub fn with_operator_at(self, executable: PathBuf, variables: &[(&str, &str)]) -> Result<Self, Failure> {
        let actions = "status,verify,rollback,revoke,abort,compromise,doctor,retire,restore,forget,sweep";
        self.with_function(OPERATE, executable, &[&[("ALLOWED_ACTIONS", actions)], variables].concat())
    }

    /// Registers another function beside the rotation function, with the same variables and these.
    ///
    /// # Errors
    /// When it cannot be registered.
    pub fn with_function(self, name: &str, executable: PathBuf, variables: &[(&str, &str)]) -> Result<Self, Failure> {
        let mut environment = self.environment.clone();
        environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let (name, timeout) = (name.to_owned(), Duration::from_secs(60));
        self.sandbox.host().register(FunctionConfig { name, executable, environment, timeout, memory_mb: 128 })?;
        Ok(self)
    }

    /// Invokes the function for operators: its answer, or its error as Lambda tells it.
    ///
    /// # Errors
    /// When it cannot be invoked, or answers no JSON.
    pub async fn operate(&self, request: &Value) -> Result<Result<Value, Value>, Failure> {
        let invocation = self.sandbox.host().invoke(OPERATE, request.to_string().into()).await?;
        let answer = serde_json::from_slice(&invocation.payload)?;
        Ok(if invocation.function_error.is_none() { Ok(answer) } else { Err(answer) })
    }

    /// The function's name.
    #[must_use]
    pub fn function(&self) -> &'static str {
        self.function
    }

    /// The function's ARN.
    #[must_use]
    pub fn function_arn(&self) -> String {
        format!("arn:aws:lambda:us-east-1:000000000000:function:{}", self.function)
    }

    /// The name of the secret that is rotated.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret.id
    }

    /// Switches rotation on, every 90 days, and tests the configuration; nothing is rotated.
    ///
    /// # Errors
    /// When the service refuses, or the test does not end.
    pub async fn configure(&self) -> Result<RotationOutcome, Failure> {
        let rules = RotationRulesType::builder().automatically_after_days(90).build();
        self.client
            .rotate_secret()
            .secret_id(self.secret())
            .rotation_lambda_arn(self.function_arn())
            .rotation_rules(rules)
            .rotate_immediately(false)
            .send()
            .await?;
        Ok(self.sandbox.wait_for_rotation(self.secret(), ROTATION_TIMEOUT).await?)
    }

    /// Rotates on demand and waits for the end.
    ///
    /// # Errors
    /// When the service refuses, or the rotation does not end.
    pub async fn rotate(&self) -> Result<RotationOutcome, Failure> {
        self.client.rotate_secret().secret_id(self.secret()).rotation_lambda_arn(self.function_arn()).send().await?;
        Ok(self.sandbox.wait_for_rotation(self.secret(), ROTATION_TIMEOUT).await?)
    }

    /// The value that carries `stage`; `None` when none does.
    ///
    /// # Errors
    /// When it cannot be read for another reason.
    pub async fn value(&self, stage: &str) -> Result<Option<String>, Failure> {
        match self.client.get_secret_value().secret_id(self.secret()).version_stage(stage).send().await {
            Ok(value) => Ok(value.secret_string),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The token in the value that carries `stage`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn token(&self, stage: &str) -> Result<String, Failure> {
        let value = self.value(stage).await?.ok_or_else(|| format!("no version carries {stage}"))?;
        let Some(field) = &self.secret.field else { return Ok(value) };
        let members: Value = serde_json::from_str(&value)?;
        Ok(members[field].as_str().ok_or("the member is not a string")?.to_owned())
    }

    /// Every token or key in every version that carries a stage: the texts of at least 20 characters, with lists taken apart.
    ///
    /// # Errors
    /// When the secret cannot be read.
    pub async fn secret_values(&self) -> Result<BTreeSet<String>, Failure> {
        let mut values = BTreeSet::new();
        for version in self.stages().await?.into_keys() {
            let value = self.client.get_secret_value().secret_id(self.secret()).version_id(version).send().await?;
            let text = value.secret_string.unwrap_or_default();
            let texts = match serde_json::from_str::<BTreeMap<String, Value>>(&text) {
                // NAME_RING holds ids and dates, which are no secret.
                Ok(members) => members
                    .into_iter()
                    .filter(|(name, _)| !name.ends_with("_RING") && !name.ends_with("_UNTIL"))
                    .filter_map(|(_, value)| Some(value.as_str()?.to_owned()))
                    .collect(),
                Err(_) => vec![text],
            };
            let texts = texts.iter().flat_map(|text| text.split(','));
            values.extend(texts.filter(|text| text.len() >= 20 && !text.contains(':')).map(str::to_owned));
        }
        Ok(values)
    }

    /// The stages of every version, by version id.
    ///
    /// # Errors
    /// When the secret cannot be described.
    pub async fn stages(&self) -> Result<BTreeMap<String, Vec<String>>, Failure> {
        let secret = self.client.describe_secret().secret_id(self.secret()).send().await?;
        Ok(secret.version_ids_to_stages.into_iter().flatten().collect())
    }

    /// A load of requests to the address of all instances.
    ///
    /// # Errors
    /// When the token cannot be read.
    pub async fn load(&self, tokens: TokenSource, rate: u32) -> Result<Load, Failure> {
        load_at(self.balancer.address(), tokens, rate).await
    }

    /// A load of records that are written and read through the address of all instances.
    #[must_use]
    pub fn records(&self, rate: u32, seed: u64) -> RecordLoad {
        self.more_records(0, rate, seed)
    }

    /// The same load, whose four workers write so many records each before they begin.
    #[must_use]
    pub fn more_records(&self, first: u32, rate: u32, seed: u64) -> RecordLoad {
        let one = std::num::NonZeroU32::MIN;
        let (workers, rate) = (one.saturating_add(3), one.saturating_add(rate.saturating_sub(1)));
        RecordLoad::start(RecordLoadSettings { address: self.balancer.address(), workers, rate, first, seed })
    }

    /// Reads every record that was ever written through every instance, and sums up.
    ///
    /// # Errors
    /// When the database does not tell which there are.
    pub async fn read_everywhere(&self) -> Result<RecordReport, Failure> {
        let mut sum = RecordReport::default();
        for instance in &self.instances {
            let report = RecordLoad::read_all(instance.address(), &self.database).await?;
            sum.read += report.read;
            sum.unreadable += report.unreadable;
            sum.failed += report.failed;
            sum.first_failure = sum.first_failure.or(report.first_failure);
        }
        Ok(sum)
    }

    /// The addresses of the instances themselves.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.instances.iter().map(Instance::address).collect()
    }

    /// What each instance reports of its secrets, asked directly with the admin token.
    ///
    /// # Errors
    /// When one gives no answer, or no JSON.
    pub async fn health(&self) -> Result<Vec<Value>, Failure> {
        let token = if self.secret() == SECRET { self.token("AWSCURRENT").await? } else { ADMIN_TOKEN.to_owned() };
        let mut reports = Vec::new();
        for instance in &self.instances {
            let url = format!("http://{}/admin/secrets/health", instance.address());
            let (_, body) = request(Method::GET, &url, &token).await?;
            reports.push(serde_json::from_slice(&body)?);
        }
        Ok(reports)
    }

    /// Clients that read `AWSCURRENT` again after `max_age`.
    #[must_use]
    pub fn fresh_clients(&self, max_age: Duration) -> TokenSource {
        TokenSource::current(self.client.clone(), &self.secret, max_age, self.clock.clock())
    }

    /// Clients that keep the token that they begin with.
    #[must_use]
    pub fn stale_clients(&self) -> TokenSource {
        TokenSource::kept(self.client.clone(), &self.secret)
    }

    /// Whether each instance accepts `token`, asked directly.
    ///
    /// # Errors
    /// When an instance gives no answer, or one that says neither.
    pub async fn accepted(&self, token: &str) -> Result<Vec<bool>, Failure> {
        let mut answers = Vec::new();
        for instance in &self.instances {
            let url = format!("http://{}/admin/jobs", instance.address());
            answers.push(match get(&url, token).await? {
                StatusCode::OK => true,
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => false,
                status => return Err(format!("an instance answered {status}").into()),
            });
        }
        Ok(answers)
    }
}

/// A load of requests with tokens, to the applications behind one address.
async fn load_at(address: SocketAddr, tokens: TokenSource, rate: u32) -> Result<Load, Failure> {
    let one = std::num::NonZeroU32::MIN;
    let settings = LoadSettings {
        url: format!("http://{address}/admin/jobs").parse()?,
        header: TOKEN_HEADER,
        tokens,
        workers: one.saturating_add(3),
        rate: one.saturating_add(rate.saturating_sub(1)),
        connections: Connections::PerRequest,
    };
    Ok(Load::start(settings).await?)
}

/// The instances of the application, and where they keep records.
async fn start_instances(
    plan: &Plan,
    client: &Client,
    clock: &ServiceClock,
    secret: &SecretReference,
    admin: &SecretReference,
) -> Result<(Vec<Instance>, Database), Failure> {
    let memory = Database::default();
    let connect = async || match &plan.database {
        Some(config) => Database::connect(config.clone()).await,
        None => Ok(memory.clone()),
    };
    let database = connect().await?;
    let mut instances = Vec::new();
    for number in 1..=plan.instances {
        let mut settings = InstanceSettings::new(HeaderValue::from_str(&format!("instance-{number}"))?, admin.clone());
        settings.mode = plan.mode;
        let reload_interval = Duration::from_millis(100);
        settings.cache.reload_interval = reload_interval;
        if let Some(keys) = plan.keys {
            settings.keys = Some(KeySettings {
                mode: keys.mode,
                cache: CacheSettings { max_age: keys.cache, reload_interval },
                reload_on_unknown_key: keys.reload_on_unknown_key,
                ..KeySettings::new(secret.clone(), keys.format, connect().await?)
            });
        }
        instances.push(Instance::start(settings, client.clone(), clock.clock()).await?);
    }
    Ok((instances, database))
}

/// The variables of the rotation function.
fn variables(plan: &Plan, sandbox: &Sandbox, balancer: &LoadBalancer) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::from([
        ("AWS_ENDPOINT_URL".to_owned(), sandbox.endpoint()),
        ("SECRET_NAME_PREFIX".to_owned(), PREFIX.to_owned()),
        ("ALLOWED_FIELDS".to_owned(), [FIELD, KEY_FIELD].join(",")),
    ]);
    if plan.instances > 0 && plan.asked {
        let url = |path| format!("http://{}{path}", balancer.address());
        environment.extend([
            ("TARGET_VERIFY_URL".to_owned(), url("/admin/secrets/health")),
            ("TARGET_REFRESH_URL".to_owned(), url("/admin/refresh-secrets")),
            ("TARGET_INSTANCES".to_owned(), plan.instances.to_string()),
            ("TARGET_TIMEOUT".to_owned(), "3s".to_owned()),
        ]);
    }
    if plan.keys.is_some() && plan.instances > 0 && plan.asked {
        environment.insert("TARGET_TOKEN_SECRET".to_owned(), "{1}/{2}/admin-token".to_owned());
    }
    environment.extend(plan.consumed());
    environment.extend(plan.environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    environment
}

/// One authorised GET.
///
/// # Errors
/// When there is no answer.
pub async fn get(url: &str, token: &str) -> Result<StatusCode, Failure> {
    Ok(request(Method::GET, url, token).await?.0)
}

/// One authorised request; the status and the body of its answer.
///
/// # Errors
/// When there is no answer.
pub async fn request(method: Method, url: &str, token: &str) -> Result<(StatusCode, Vec<u8>), Failure> {
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
    let mut request = Request::new(Empty::<&[u8]>::new());
    *request.method_mut() = method;
    *request.uri_mut() = url.parse::<Uri>()?;
    request.headers_mut().insert(TOKEN_HEADER, HeaderValue::from_str(token)?);
    let answer = client.request(request).await?;
    let status = answer.status();
    Ok((status, answer.into_body().collect().await?.to_bytes().to_vec()))
}

/// A client of the Secrets Manager at `endpoint`, with the rights of a person.
///
/// # Errors
/// When there can be nothing at such an endpoint.
pub fn client(endpoint: &str) -> Result<Client, Failure> {
    Ok(settings(endpoint)?.client(&ServiceClock::default()))
}

fn settings(endpoint: &str) -> Result<ServiceSettings, Failure> {
    Ok(ServiceSettings::from_environment(|variable| {
        Some(match variable {
            "AWS_REGION" => "us-east-1".to_owned(),
            "AWS_ACCESS_KEY_ID" | "AWS_SECRET_ACCESS_KEY" => "person".to_owned(),
            "AWS_ENDPOINT_URL" => endpoint.to_owned(),
            _ => return None,
        })
    })?)
}

/// The path of a function or another program of this workspace, built if need be.
///
/// # Errors
/// When Cargo fails, or there is no such program.
pub async fn program(name: &'static str) -> Result<PathBuf, Failure> {
    Ok(tokio::task::spawn_blocking(|| sandbox::program(name)).await??)
}

/// Builds the program `name` with further arguments of `cargo build`, and says where it is.
///
/// # Errors
/// When Cargo fails.
pub fn build_with(name: &str, arguments: &[&str]) -> Result<PathBuf, Failure> {
    let output = verify::cargo::cargo()
        .args(["build", "--quiet", "--locked", "--message-format=json-render-diagnostics"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    if !output.status.success() {
        return Err(format!("cargo build failed:\n{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let mut built = output.stdout.split(|&byte| byte == b'\n').filter_map(|line| {
        let message: Value = serde_json::from_slice(line).ok()?;
        (message["target"]["name"] == name).then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    built.next_back().ok_or_else(|| format!("cargo built no program named {name}").into())
}
