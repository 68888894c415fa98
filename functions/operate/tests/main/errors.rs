//! What errors say.

use operate::error::OperateError;

#[test]
fn not_managed_names_no_command_that_changes_the_kind() {
    let told = |function: Option<&str>| {
        let function = function.map(str::to_owned);
        OperateError::NotManaged { name: "shop/key".to_owned(), function }.to_string()
    };
    let other = "arn:aws:lambda:us-east-1:000000000000:function:theirs";
    assert!(told(Some(other)).contains(other), "what is known is said");
    assert!(told(None).contains("no function rotates it") && told(None).contains("Adopt an existing secret"));
    for message in [told(Some(other)), told(None)] {
        assert!(message.contains("shop/key"), "{message}");
        assert!(!message.contains("rotate-secret") && !message.contains("--rotation-lambda-arn"), "{message}");
    }
}
