//! The command line of `cargo sandbox`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::prelude::*;

pub(crate) const HELP: &str = "\
An AWS for one machine: Secrets Manager with rotation, Lambda, ECS services, CloudWatch
metrics and logs, SNS, rules of EventBridge.

Usage: cargo sandbox [options]

Options:
  --port PORT              on 127.0.0.1, default 4566; 0 takes a free one
  --state DIR              keep the secrets across restarts, WITH THEIR VALUES, in
                           DIR/secrets.json (mode 0600); default: in memory only
  --bin-dir DIR            where the functions' binaries are; default: beside this
                           program, built first with cargo
  --no-build               run the binaries as they are
  --env FUNCTION:KEY=VALUE a variable of a function's environment; repeatable
  --function NAME=PROGRAM  a function of yours: a program that speaks the Runtime API, for
                           example with awslambdaric; repeatable
  --forward NAME=URL       send a function's invocations to `cargo lambda watch`,
                           for example admin-token=http://127.0.0.1:9000; repeatable
  --help

Functions are the folders of functions/, without deliver unless it has CONSUMERS, and yours;
their ARNs are
arn:aws:lambda:us-east-1:000000000000:function:NAME.

Control API, on the same port:
  GET    /_sandbox/clock
  POST   /_sandbox/clock           {\"advance\": \"90d\"} moves the time; rotations that
                                   fall due meanwhile run before it answers
  GET    /_sandbox/events          rotations, steps, staging labels
  GET    /_sandbox/calls           calls to Secrets Manager, SNS and CloudWatch Logs by
                                   caller and operation
  DELETE /_sandbox/calls           count from here
  GET    /_sandbox/metrics         what PutMetricData was given
  GET    /_sandbox/notifications   what was published to SNS topics
  GET    /_sandbox/executions      the executions of state machines that were started
  GET    /_sandbox/logs/FUNCTION   what the function logged; FilterLogEvents searches it
                                   in the log group /aws/lambda/FUNCTION
  GET    /_sandbox/services        the services of ECS, with their addresses and tasks
  POST   /_sandbox/services        run a service whose tasks are processes that print
                                   `listening on http://127.0.0.1:PORT` first:
           {\"cluster\": \"shop\", \"service\": \"web\", \"program\": \"/path/to/program\",
            \"tasks\": 2, \"start_time\": \"30s\", \"environment\": {\"PORT\": \"0\"},
            \"secrets\": {\"TOKEN\": \"arn:aws:secretsmanager:…:secret:NAME:MEMBER::\"}}
           also: arguments, circuit_breaker, rollback, controller
  POST   /_sandbox/services/CLUSTER/SERVICE
                                   {\"fail_new_tasks\": true}: new tasks fail
  DELETE /_sandbox/services/CLUSTER/SERVICE
                                   makes it INACTIVE
  POST   /_sandbox/rules           invoke a function for events of Secrets Manager and ECS:
           {\"function\": \"deliver\", \"pattern\": {\"source\": [\"aws.secretsmanager\"]}}
  POST   /_sandbox/schedules       {\"function\": \"deliver\", \"every\": \"1h\", \"input\": {}}
  GET    /_sandbox/invocations     what rules and schedules invoked, with the answers
  GET    /_sandbox/faults          the rules, and how often each matched
  POST   /_sandbox/faults          add a rule:
           {\"operation\": \"PutSecretValue\", \"caller\": \"admin-token\",
            \"first\": 1, \"times\": 2, \"fault\": {\"type\": \"Throttle\"}}
           operation: an operation of Secrets Manager, ECS, CloudWatch, CloudWatch Logs
                      or SNS, *, or Invoke (with \"step\": \"testSecret\" for one step)
           for_millis: hit calls for so long, instead of or beside times
           fault: Throttle, InternalServiceError, LostAnswer, StaleRead,
                  {\"type\": \"Delay\", \"millis\": 500},
                  {\"type\": \"KillFunction\", \"function\": \"admin-token\", \"when\": \"after\"}
  DELETE /_sandbox/faults          remove all rules; /_sandbox/faults/ID removes one
";

/// The parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Help,
    Run(Options),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) port: u16,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) bin_dir: Option<PathBuf>,
    pub(crate) build: bool,
    /// By function, then by variable.
    pub(crate) environment: BTreeMap<String, BTreeMap<String, String>>,
    /// The program of each function of the user's.
    pub(crate) functions: BTreeMap<String, PathBuf>,
    /// The base URL of each function that runs elsewhere.
    pub(crate) forward: BTreeMap<String, String>,
}

pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, lexopt::Error> {
    let mut options = Options {
        port: 4566,
        state_dir: None,
        bin_dir: None,
        build: true,
        environment: BTreeMap::new(),
        functions: BTreeMap::new(),
        forward: BTreeMap::new(),
    };
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("port") => {
                let port = parser.value()?.string()?;
                options.port = port.parse().map_err(|_| "--port takes a number from 0 to 65535")?;
            }
            Long("state") => options.state_dir = Some(parser.value()?.into()),
            Long("bin-dir") => options.bin_dir = Some(parser.value()?.into()),
            Long("no-build") => options.build = false,
            Long("env") => {
                let text = parser.value()?.string()?;
                // The message leaves out the value, which may be a secret.
                let (function, variable) = text.split_once(':').ok_or("--env takes FUNCTION:KEY=VALUE")?;
                let (key, value) = variable.split_once('=').ok_or("--env takes FUNCTION:KEY=VALUE")?;
                options.environment.entry(function.into()).or_default().insert(key.into(), value.into());
            }
            Long("forward") => {
                let text = parser.value()?.string()?;
                let (function, url) = text.split_once('=').ok_or("--forward takes NAME=URL")?;
                options.forward.insert(function.into(), url.into());
            }
            Long("function") => {
                let text = parser.value()?.string()?;
                let (function, program) = text.split_once('=').ok_or("--function takes NAME=PROGRAM")?;
                options.functions.insert(function.into(), program.into());
            }
            Long("help") | Short('h') => return Ok(Command::Help),
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(Command::Run(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Options {
        match parse(arguments.iter().map(OsString::from)).unwrap() {
            Command::Run(options) => options,
            Command::Help => panic!("help"),
        }
    }

    fn error(arguments: &[&str]) -> String {
        parse(arguments.iter().map(OsString::from)).unwrap_err().to_string()
    }

    #[test]
    fn variables_belong_to_their_function_and_keep_separators() {
        let options = run(&["--env", "f:URL=http://h:1/?a=b", "--env=f:B=2", "--env", "g:C="]);
        let f = BTreeMap::from([("URL".into(), "http://h:1/?a=b".into()), ("B".into(), "2".into())]);
        let g = BTreeMap::from([("C".into(), String::new())]);
        assert_eq!(options.environment, BTreeMap::from([("f".into(), f), ("g".into(), g)]));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_value() {
        assert_eq!(error(&["--env", "f=hush"]), "--env takes FUNCTION:KEY=VALUE");
        assert_eq!(error(&["--env", "f:hush"]), "--env takes FUNCTION:KEY=VALUE");
        assert_eq!(error(&["--forward", "f"]), "--forward takes NAME=URL");
        assert_eq!(error(&["--function", "f"]), "--function takes NAME=PROGRAM");
        assert_eq!(error(&["--port", "70000"]), "--port takes a number from 0 to 65535");
        assert!(error(&["extra"]).contains("extra"));
    }

    #[test]
    fn the_defaults_are_those_of_the_help() {
        let options = run(&[]);
        assert_eq!((options.port, options.build, options.state_dir), (4566, true, None));
        assert_eq!(parse(["--help".into()]).unwrap(), Command::Help);
    }
}
