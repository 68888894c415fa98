//! The break-glass role.

use template::ACCOUNT;

use crate::support::*;

#[test]
fn the_break_glass_role_wants_mfa_and_is_short() {
    assert!(!least().of_type("AWS::IAM::Role").contains_key("BreakGlassRole"));
    let most = most();
    let role = most.of_type("AWS::IAM::Role")["BreakGlassRole"];
    assert_eq!(role["MaxSessionDuration"], 3600);
    let trust = &role["AssumeRolePolicyDocument"]["Statement"][0];
    assert_eq!(texts(&trust["Principal"]["AWS"]), ["arn:aws:iam::000000000000:user/alice"]);
    assert_eq!(trust["Condition"]["Bool"]["aws:MultiFactorAuthPresent"], "true");
    assert_eq!(trust["Condition"]["NumericLessThan"]["aws:MultiFactorAuthAge"], "900");
}

#[test]
fn a_break_glass_session_is_told_through_every_endpoint() {
    let most = most();
    let role = most.of_type("AWS::IAM::Role")["BreakGlassRole"];
    let events = most.of_type("AWS::Events::Rule")["BreakGlassEvents"];
    // AssumeRole is a management event that reads. A rule that is only ENABLED gets none of those (EventBridge user guide, "Read-only
    // management events from AWS services").
    assert_eq!(events["State"], "ENABLED_WITH_ALL_CLOUDTRAIL_MANAGEMENT_EVENTS");
    let pattern = &events["EventPattern"];
    // By whichever endpoint of the Region, of STS or of a VPC: nothing in the pattern names one.
    assert_eq!(
        pattern["detail"].as_object().unwrap().keys().collect::<Vec<_>>(),
        ["eventName", "eventSource", "requestParameters"]
    );
    let watched = &events["EventPattern"]["detail"]["requestParameters"]["roleArn"][0];
    assert_eq!(watched, &format!("arn:aws:iam::{ACCOUNT}:role/{}", role["RoleName"].as_str().unwrap()));
}
