//! The environment of a function's process, for the runtime `provided.al2023`. Source: "Defined runtime environment
//! variables" in the Lambda developer guide. `AWS_EXECUTION_ENV` is missing on purpose, because Lambda does not set it
//! for OS-only runtimes.

use std::collections::BTreeMap;
use std::path::Path;

use uuid::Uuid;

use crate::lambda_host::{ConfigurationError, FunctionConfig, REGION};

/// The most bytes of all names and values of a function's environment together.
const MAX_SIZE: usize = 4096;

const RESERVED: [&str; 19] = [
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
    "TZ",
];

/// Refuses the environments that UpdateFunctionConfiguration refuses.
pub(crate) fn check(environment: &BTreeMap<String, String>) -> Result<(), ConfigurationError> {
    for (key, value) in environment {
        let reserved = RESERVED.contains(&key.as_str());
        let well_formed = key.starts_with(|c: char| c.is_ascii_alphabetic())
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if (!well_formed && !reserved) || value.contains('\0') {
            return Err(ConfigurationError::Variable(key.clone()));
        }
    }
    let reserved: Vec<String> = environment.keys().filter(|key| RESERVED.contains(&key.as_str())).cloned().collect();
    if !reserved.is_empty() {
        return Err(ConfigurationError::ReservedVariables(reserved));
    }
    let measured = serde_json::json!(environment).to_string().len();
    if measured > MAX_SIZE {
        return Err(ConfigurationError::EnvironmentTooLarge { measured });
    }
    Ok(())
}

/// The temporary credentials of a function's role. The sandbox does not check them. They have the form of real
/// credentials, so code that looks at the form works. The access key id tells functions apart.
#[derive(Clone)]
pub(crate) struct RoleCredentials {
    pub(crate) access_key_id: String,
    secret_access_key: String,
    session_token: String,
}

impl RoleCredentials {
    pub(crate) fn generate() -> Self {
        const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let unique = Uuid::new_v4();
        let id: String = unique.as_bytes().iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect();
        Self {
            access_key_id: format!("ASIA{id}"),
            secret_access_key: format!("sandbox/{}", Uuid::new_v4().simple()),
            session_token: format!("sandbox/{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()),
        }
    }
}

/// The whole environment of a process. The function's own variables come last, because they may replace `PATH`, `LANG`
/// and `LD_LIBRARY_PATH` in Lambda too.
pub(crate) fn of_process(
    config: &FunctionConfig,
    credentials: &RoleCredentials,
    runtime_api: &str,
    log_stream: &str,
    task_root: &Path,
) -> BTreeMap<String, String> {
    let root = task_root.to_string_lossy();
    let runtime_dir = "/var/runtime";
    let own = [
        ("_HANDLER", "bootstrap".to_owned()),
        ("AWS_ACCESS_KEY_ID", credentials.access_key_id.clone()),
        ("AWS_DEFAULT_REGION", REGION.to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", config.memory_mb.to_string()),
        ("AWS_LAMBDA_FUNCTION_NAME", config.name.clone()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{}", config.name)),
        ("AWS_LAMBDA_LOG_STREAM_NAME", log_stream.to_owned()),
        ("AWS_LAMBDA_RUNTIME_API", runtime_api.to_owned()),
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", credentials.secret_access_key.clone()),
        ("AWS_SESSION_TOKEN", credentials.session_token.clone()),
        ("AWS_XRAY_CONTEXT_MISSING", "LOG_ERROR".to_owned()),
        ("AWS_XRAY_DAEMON_ADDRESS", "169.254.79.129:2000".to_owned()),
        ("LAMBDA_RUNTIME_DIR", runtime_dir.to_owned()),
        ("LAMBDA_TASK_ROOT", root.clone().into_owned()),
        ("LANG", "en_US.UTF-8".to_owned()),
        ("LD_LIBRARY_PATH", format!("/lib64:/usr/lib64:{runtime_dir}:{runtime_dir}/lib:{root}:{root}/lib:/opt/lib")),
        ("PATH", "/usr/local/bin:/usr/bin/:/bin:/opt/bin".to_owned()),
        ("TZ", ":UTC".to_owned()),
    ];
    let mut environment: BTreeMap<String, String> =
        own.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    environment.extend(config.environment.clone());
    environment
}
