//! Values: what `put` and `setup` read, and that no value is anywhere else.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

const PEM: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\nAAAA==\n-----END PRIVATE KEY-----";
const PROVIDERS: &str = "shop/production/providers";

async fn put_file(person: &Person, file: &str) -> Run {
    std::fs::write(person.home.path().join(".env"), file).unwrap();
    person.run(&["put", "providers", "--env", ".env", "--yes", "--reason", "import"]).await
}

async fn stored(person: &Person) -> BTreeMap<String, String> {
    serde_json::from_str(&person.value(PROVIDERS).await).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_as_dotenv_reads_it() {
    let person = Person::new().await;
    person.unmanaged(PROVIDERS, "{}").await;
    let file = format!(
        "\u{feff}# a comment\r\n\r\nPLAIN=value # comment\nexport EXPORTED = spaced\nHASH=a#b\nSINGLE='it #is \\n $HOME'\n\
         DOUBLE=\"a \\\"b\\\" \\n \\\\ \\$ \\x\" # comment\nBACK=`x \"y\" 'z'`\n  INDENTED=1=2==\nLINES=\"first  \n  second\"\n\
         PEM_PLAIN={PEM}\nPEM_LINE=-----BEGIN KEY-----\\nMC4\\n-----END KEY-----\\n # comment\nPEM_QUOTED=\"{}\"\nTWICE=one\nEMPTY=\nEMPTY_TOO=\"\"\nHOLDER=<fill in>\nOTHER=ChangeMe\n\
         TWICE=two\nURL=postgres://u:p@h/db?x=1&y=2\nDOTS.and-dashes=*glob* $(id) `id`\nLAST=ä…",
        PEM.replace('\n', "\\n")
    );
    let run = put_file(&person, &file).await;
    assert_eq!(run.code, 4, "variables are left: {run:?}");
    let expected = [
        ("PLAIN", "value"),
        ("EXPORTED", "spaced"),
        ("HASH", "a#b"),
        ("SINGLE", "it #is \\n $HOME"),
        ("DOUBLE", "a \"b\" \n \\ $ \\x"),
        ("BACK", "x \"y\" 'z'"),
        ("INDENTED", "1=2=="),
        ("LINES", "first  \n  second"),
        ("PEM_PLAIN", PEM),
        ("PEM_LINE", "-----BEGIN KEY-----\\nMC4\\n-----END KEY-----\\n"),
        ("PEM_QUOTED", PEM),
        ("TWICE", "two"),
        ("URL", "postgres://u:p@h/db?x=1&y=2"),
        ("DOTS.and-dashes", "*glob* $(id) `id`"),
        ("LAST", "ä…"),
    ];
    let expected: BTreeMap<String, String> =
        expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
    assert_eq!(stored(&person).await, expected);
    for told in ["EMPTY is skipped: it is empty", "HOLDER is skipped", "OTHER is skipped", "TWICE is skipped: line"] {
        assert!(run.err.contains(told), "{told}: {run:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_is_refused_by_its_line_and_shows_nothing() {
    let person = Person::new().await;
    person.unmanaged(PROVIDERS, "{}").await;
    for (file, line) in [
        ("A=1\nhunter2-alone", "line 2"),
        ("A=1\n\nB=\"hunter2\nmore", "line 3"),
        ("A='hunter2' hunter2", "line 1"),
        ("1hunter2=x", "line 1"),
        ("A=-----BEGIN hunter2-----\nx", "line"),
    ] {
        let run = put_file(&person, file).await;
        assert!(run.code == 2 && run.err.contains(line), "{file}: {run:?}");
        assert!(!run.err.contains("hunter2") && !run.out.contains("hunter2"), "{run:?}");
    }
    assert_eq!(stored(&person).await, BTreeMap::new());
}

/// A terminal passes on a line at a time, and what follows would be typed into the shell.
#[tokio::test(flavor = "multi_thread")]
async fn a_pasted_value_of_several_lines_is_refused() {
    let person = Person::new().await;
    person.unmanaged(PROVIDERS, "{}").await;
    let put = ["put", PROVIDERS, "KEY", "--yes", "--reason", "import"];
    let run = help::types(&person, &put, &format!("{PEM}\n")).await;
    assert!(run.code == 2 && run.out.contains("use < FILE") && !run.out.contains("MC4C"), "{run:?}");
    assert_eq!(stored(&person).await, BTreeMap::new());
    let run = help::types(&person, &put, "one line\n").await;
    assert_eq!((run.code, stored(&person).await["KEY"].as_str()), (0, "one line"), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_variables_is_refused() {
    let person = Person::new().await;
    for argument in [".", "empty"] {
        std::fs::write(person.home.path().join("empty"), "# nothing\n").unwrap();
        let run = person.run(&["setup", "--env", argument, "--yes"]).await;
        assert_eq!(run.code, 2, "{argument}: {run:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_text_arrives_as_it_is() {
    let person = Person::new().await;
    person.unmanaged(PROVIDERS, "{}").await;
    person.unmanaged("shop/production/text", "old").await;
    let controls: String = (1..32_u8).filter(|code| *code != 10).map(char::from).collect();
    for value in [
        "simple",
        "\"quoted\" \\back\\slash\\ /",
        "-n",
        "%s\\n",
        "a\nb\n\n",
        "ä€😀",
        &controls,
        "*",
        "~",
        "$(id)`id`$HOME",
        "&\\&",
        "'",
        &"x".repeat(20_000),
    ] {
        let put = ["put", "providers", "A", "--yes", "--reason", "r"];
        let run = person.run_with(&put, &format!("{value}\n")).await;
        assert_eq!(run.code, 0, "{value:?}: {run:?}");
        assert_eq!(stored(&person).await["A"], value);
    }
    let run = person.run_with(&["put", "text", "--yes", "--reason", "r"], "new text").await;
    assert_eq!((run.code, person.value("shop/production/text").await.as_str()), (0, "new text"), "{run:?}");
    for (bad, told) in [("", "empty"), ("\n", "empty"), ("a\0b", "NUL")] {
        let run = person.run_with(&["put", "providers", "A", "--yes", "--reason", "r"], bad).await;
        assert!(run.code == 2 && run.err.contains(told), "{run:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_would_keep_the_value_is_refused() {
    let person = Person::new().await;
    person.unmanaged(PROVIDERS, "{}").await;
    std::fs::create_dir(person.home.path().join(".aws")).unwrap();
    std::fs::write(person.home.path().join(".aws/config"), "[default]\ncli_history = enabled\n").unwrap();
    let run = person.run_with(&["put", "providers", "A", "--yes", "--reason", "r"], "hunter2").await;
    assert!(run.code == 3 && run.err.contains("cli_history"), "{run:?}");
    assert_eq!(stored(&person).await, BTreeMap::new());
}

/// Programs that note their arguments and environment, `jq` its input too, before they do their work.
fn noting(folder: &Path, notes: &Path) {
    for name in ["aws", "jq", "awk", "sed", "tr", "date", "iconv", "sleep", "cat", "readlink", "dirname"] {
        let real = tool(name);
        let (real, notes) = (real.display(), notes.display());
        let work = match name {
            // With -n it reads nothing.
            "jq" => format!("case $1 in --version | -n*) exec {real} \"$@\" ;; esac\ntee -a {notes} | {real} \"$@\""),
            _ => format!("exec {real} \"$@\""),
        };
        let script = format!("#!/bin/sh\n{{ echo '{name}' \"$@\"; env; }} >>{notes}\n{work}\n");
        let path = folder.join(name);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_value_is_in_arguments_environment_files_or_output() {
    let (programs, notes) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let person = Person::new().await.with_token().await;
    person.empty(KEY, "encryption-key", KEY_FIELD).await;
    person.unmanaged(PROVIDERS, "{}").await;
    person.unmanaged("shop/production/text", "{}").await;
    noting(programs.path(), notes.path());
    let person = person.with_programs(programs.path());
    let values = ["hunter2-of-a-member", "hunter2-of-a-file", "hunter2-of-a-text", "hunter2-in-each"];
    let file = format!("MEMBER_OF_FILE='{}'\n", values[1]);
    std::fs::write(person.home.path().join(".env"), &file).unwrap();
    std::fs::write(person.home.path().join("each"), format!("TEXT={}\n", values[3])).unwrap();
    let mut printed = String::new();
    let changes = ["--yes", "--reason", "a test"];
    for (arguments, input) in [
        (&["setup", "--env", ".env", "--into", "providers"][..], ""),
        (&["put", "providers", "MEMBER"], values[0]),
        (&["put", "providers", "MEMBER", "--json"], values[0]),
        (&["put", "providers", "--env", ".env"], ""),
        (&["put", "text"], values[2]),
        (&["setup", "--env", "each", "--json"], ""),
        // Refused: the name is an owned member, a JSON object, a secret that does not exist.
        (&["put", "admin-token", FIELD], values[0]),
        (&["put", "providers"], values[0]),
        (&["put", "none", "MEMBER"], values[0]),
        (&["rotate", "admin-token", "--wait"], ""),
        (&["rotate", "encryption-key"], ""),
        (&["status", "admin-token"], ""),
        (&["status"], ""),
        (&["verify", "encryption-key"], ""),
        (&["doctor", "admin-token", "--json"], ""),
        (&["rollback", "admin-token"], ""),
        (&["revoke", "admin-token"], ""),
        (&["abort", "admin-token"], ""),
        (&["compromise", "admin-token"], ""),
        (&["sweep"], ""),
    ] {
        let run = exporting(&person, &[arguments, &changes].concat(), input).await;
        printed += &format!("{run:?}");
    }
    let stored = stored(&person).await;
    let of = |name: &str| stored.get(name).map(String::as_str);
    assert_eq!([of("MEMBER"), of("MEMBER_OF_FILE")], [Some(values[0]), Some(values[1])], "{printed}");
    assert_eq!(person.value("shop/production/text").await, values[3], "{printed}");
    let noted = std::fs::read_to_string(notes.path()).unwrap();
    assert!(noted.contains("lambda invoke") && noted.contains("PASSED_ON_BY_THE_SHELL"), "there is nothing to search");
    let token = serde_json::from_str::<Value>(&person.value(SECRET).await).unwrap()[FIELD].as_str().unwrap().to_owned();
    let log = person.scene.sandbox.host().logs("shop-production-operate").join("\n");
    for value in values.into_iter().chain([token.as_str()]) {
        for (place, text) in [("programs", &noted), ("output", &printed), ("log", &log)] {
            assert!(!text.contains(value), "{value} is in {place}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(person.home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the two files with variables: {left:?}");
}

/// In a shell that exports the command's own names, traces, and exports everything else.
async fn exporting(person: &Person, arguments: &[&str], input: &str) -> Run {
    let mut command = person.command("setsid");
    command.arg("--wait").arg(workspace().join("infra/rotation")).args(arguments);
    for name in ["value", "request", "answer", "json", "members", "env_values", "line", "rest", "quoted", "text"] {
        command.env(name, "SECRET_OF_THE_SHELL");
    }
    command.env("SHELLOPTS", "allexport:xtrace").env("PASSED_ON", "PASSED_ON_BY_THE_SHELL");
    finish(command, input).await
}

#[test]
fn no_here_string_writes_a_value_into_a_file() {
    for file in std::fs::read_dir(workspace().join("infra/rotation.d")).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert!(!text.contains("<<<"), "Bash before 5.1 writes here-strings to files");
    }
}
