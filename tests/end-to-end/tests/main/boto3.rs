//! boto3, as an operator's script uses it.

use tokio::process::Command;

use crate::aws_cli::tool;
use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn boto3_rotates_reads_lists_revokes_invokes_and_measures() {
    let scene = start(no_target(text_plan())).await;
    let home = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/main/script_with_boto3.py");
    let mut command = Command::new(tool("python3"));
    command.args(["-B", script, &scene.sandbox.endpoint(), &scene.function_arn()]);
    command.env_clear().env("HOME", home.path()).current_dir(home.path()).kill_on_drop(true);
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let held = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        held.split_whitespace().collect::<Vec<_>>(),
        ["rotated", "read", "listed", "revoked", "invoked", "measured"]
    );
}
