//! The network: what the endpoints do to the VPC that they are put into, and what does not go together.

use std::collections::BTreeMap;

use regex_lite::Regex;
use template::{MAIN, Stack, text};

use crate::support::*;

/// The stack in a VPC with endpoints, with these parameters in place of those.
fn in_a_vpc(changed: &[(&'static str, &'static str)]) -> Result<Stack, String> {
    let vpc = [
        ("VpcId", "vpc-01234567"),
        ("SubnetIds", "subnet-01234567,subnet-89abcdef"),
        ("SecurityGroupId", "sg-01234567"),
        ("CreateVpcEndpoints", "true"),
        ("VpcCidr", "10.20.0.0/16"),
    ];
    let mut parameters: BTreeMap<&str, &str> = LEAST.into_iter().chain(vpc).collect();
    parameters.extend(changed.iter().copied());
    templates().resolve(&parameters.into_iter().collect::<Vec<_>>(), &BTreeMap::new())
}

#[test]
fn everybody_in_the_vpc_may_use_endpoints_that_serve_all_of_it() {
    let stack = in_a_vpc(&[]).unwrap();
    let endpoints = stack.of_type("AWS::EC2::VPCEndpoint");
    assert_eq!(endpoints.len(), 4);
    for (name, endpoint) in endpoints {
        // With private DNS the service's name leads to the endpoint for every instance, task and agent in the VPC.
        assert_eq!(endpoint["PrivateDnsEnabled"], true, "{name}");
        assert_eq!(texts(&endpoint["SecurityGroupIds"]), ["EndpointSecurityGroup"], "{name}");
        assert_eq!(texts(&endpoint["SubnetIds"]), ["subnet-01234567", "subnet-89abcdef"], "{name}");
    }
    let group = stack.of_type("AWS::EC2::SecurityGroup")["EndpointSecurityGroup"];
    let admitted: Vec<_> = items(&group["SecurityGroupIngress"]);
    for rule in &admitted {
        assert_eq!((&rule["FromPort"], &rule["ToPort"]), (&443.into(), &443.into()));
    }
    assert!(admitted.iter().any(|rule| rule["SourceSecurityGroupId"] == "sg-01234567"), "{admitted:?}");
    assert!(admitted.iter().any(|rule| rule["CidrIp"] == "10.20.0.0/16"), "{admitted:?}");
}

#[test]
fn endpoints_serve_the_consumers_that_there_are() {
    let services = |changed: &[(&'static str, &'static str)]| -> Vec<String> {
        let endpoints = in_a_vpc(changed).unwrap();
        let endpoints = endpoints.of_type("AWS::EC2::VPCEndpoint");
        endpoints.values().map(|one| text(&one["ServiceName"]).rsplit('.').next().unwrap().to_owned()).collect()
    };
    let consumers = |arns: (&'static str, &'static str)| {
        services(&[("Consumers", r#"{"token":[]}"#), ("ConsumedSecrets", "token"), arns])
    };
    let usual = services(&[]);
    for (name, endpoint) in [("ConsumerServiceArns", "ecs"), ("ConsumerFunctionArns", "lambda")] {
        let (_, arn) = MOST.into_iter().find(|(parameter, _)| *parameter == name).unwrap();
        let made = consumers((name, arn));
        let more: Vec<_> = made.iter().filter(|service| !usual.contains(service)).collect();
        assert_eq!(more, [endpoint], "{name}");
    }
    let (_, arn) = MOST.into_iter().find(|(parameter, _)| *parameter == "ConsumerSecretArns").unwrap();
    assert_eq!(consumers(("ConsumerSecretArns", arn)), usual, "copies need Secrets Manager alone");
}

#[test]
fn endpoints_take_one_subnet_of_each_zone() {
    // An interface endpoint takes one subnet of a zone (DuplicateSubnetsInSameZone), and functions as many as you like.
    let stack = in_a_vpc(&[("EndpointSubnetIds", "subnet-01234567")]).unwrap();
    for (name, endpoint) in stack.of_type("AWS::EC2::VPCEndpoint") {
        assert_eq!(texts(&endpoint["SubnetIds"]), ["subnet-01234567"], "{name}");
    }
    for (name, function) in stack.of_type("AWS::Serverless::Function") {
        assert_eq!(texts(&function["VpcConfig"]["SubnetIds"]), ["subnet-01234567", "subnet-89abcdef"], "{name}");
    }
    let alone = [("EndpointSubnetIds", "subnet-01234567"), ("CreateVpcEndpoints", "false")];
    let refused = in_a_vpc(&alone).expect_err("it is for endpoints that nobody makes");
    assert!(refused.contains("EndpointSubnetIds"), "{refused}");
}

#[test]
fn mismatched_network_parameters_are_refused() {
    for (changed, says) in [
        ([("SecurityGroupId", ""), ("CreateVpcEndpoints", "false")], "SubnetIds and SecurityGroupId go together"),
        ([("SubnetIds", ""), ("CreateVpcEndpoints", "false")], "SubnetIds and SecurityGroupId go together"),
        ([("SubnetIds", ""), ("SecurityGroupId", "")], "CreateVpcEndpoints needs"),
        ([("VpcId", ""), ("UseFipsEndpoint", "false")], "CreateVpcEndpoints needs"),
        ([("VpcCidr", ""), ("UseFipsEndpoint", "false")], "CreateVpcEndpoints needs"),
        ([("UseFipsEndpoint", "true"), ("CreateVpcEndpoints", "true")], "UseFipsEndpoint"),
    ] {
        let refused = in_a_vpc(&changed).err().unwrap_or_else(|| panic!("{changed:?} is accepted"));
        assert!(refused.contains(says), "{changed:?}: {refused}");
    }
    for changed in
        [[("CreateVpcEndpoints", "false"), ("UseFipsEndpoint", "true")], [("VpcId", "vpc-0"), ("VpcId", "vpc-1")]]
    {
        in_a_vpc(&changed).unwrap_or_else(|refused| panic!("{changed:?}: {refused}"));
    }
    let refresh = [("TargetRefreshUrl", "https://shop.example.com/refresh"), ("VpcId", "vpc-1")];
    assert!(in_a_vpc(&refresh).err().is_some_and(|refused| refused.contains("needs TargetVerifyUrl")));
}

#[test]
fn subnets_and_blocks_are_checked_by_their_looks() {
    let parameters = &templates().written(MAIN)["Parameters"];
    let accepts = |name: &str, value: &str| {
        let pattern = parameters[name]["AllowedPattern"].as_str().unwrap_or_else(|| panic!("{name} takes anything"));
        Regex::new(&format!("^(?:{pattern})$")).unwrap().is_match(value)
    };
    for name in ["SubnetIds", "EndpointSubnetIds"] {
        for good in ["", "subnet-01234567", "subnet-0123456789abcdef0,subnet-01234567"] {
            assert!(accepts(name, good), "{good}");
        }
        for bad in ["subnet-01234567, subnet-89abcdef", "subnet-01234567,", "sg-01234567"] {
            assert!(!accepts(name, bad), "{bad}");
        }
    }
    for good in ["", "10.0.0.0/16", "172.31.0.0/20"] {
        assert!(accepts("VpcCidr", good), "{good}");
    }
    for bad in ["10.0.0.0", "0.0.0.0/0", "10.0.0.0/8,10.1.0.0/16"] {
        assert!(!accepts("VpcCidr", bad), "{bad}");
    }
}

#[test]
fn rotation_is_switched_on_when_the_endpoints_are_there() {
    // Secrets Manager tries the function at once; without endpoints it would run out of time.
    let (with, without) = (in_a_vpc(&[]).unwrap(), least());
    for schedule in without.of_type("AWS::SecretsManager::RotationSchedule").into_keys() {
        assert_eq!(with.resources[schedule]["Metadata"]["Endpoints"], "Network", "{schedule}");
        assert_eq!(without.resources[schedule]["Metadata"]["Endpoints"], "", "{schedule}");
    }
}
