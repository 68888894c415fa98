//! ECS as its clients have it: recorded facts case by case through the SDK, and deployments on the movable clock.
//! Words in quotes were recorded on AWS.

#![allow(clippy::unwrap_used, reason = "in a test, what is missing is a failed test")]

mod common;
mod tools;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_sdk_ecs::Client;
use aws_sdk_ecs::types::{CreatedAt, DeploymentControllerType, DeploymentRolloutState, ServiceDeploymentStatus};
use common::problem;
use common::services::{CLUSTER, ID, World, world, world_with};
use sandbox::{Controller, DeploymentStatus, Fault, FaultRule, ServiceDeclaration, member, secret};

const START: Duration = Duration::from_secs(30);

/// A binary of `examples/`, which the tests are built with.
fn task() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("examples/test-task");
    assert!(path.is_file(), "{} is missing: cargo build -p sandbox --examples", path.display());
    path
}

fn declaration() -> ServiceDeclaration {
    ServiceDeclaration::new(CLUSTER, "web", task()).with_secret("VALUE", &secret("s"))
}

fn pair(code: &str, message: &str) -> (String, String) {
    (code.to_owned(), message.to_owned())
}

async fn deploy(client: &Client) {
    client.update_service().cluster(CLUSTER).service("web").force_new_deployment(true).send().await.unwrap();
}

/// The statuses of the deployments, oldest first.
fn statuses(world: &World) -> Vec<&'static str> {
    world.sandbox.ecs().service(ID).unwrap().deployments
}

#[tokio::test]
async fn a_service_reads_its_secret_when_a_task_starts() {
    let world = world(declaration()).await;
    world.change("v2").await;
    assert_eq!(world.values().await, ["v1", "v1"]);
    deploy(&world.ecs).await;
    world.sandbox.advance(Duration::from_secs(120)).await.unwrap();
    assert_eq!(world.values().await, ["v2", "v2"]);
}

#[tokio::test]
async fn tasks_are_replaced_one_after_another() {
    let world = world(declaration()).await;
    world.change("v2").await;
    deploy(&world.ecs).await;
    assert_eq!(statuses(&world), ["SUCCESSFUL", "PENDING"]);
    world.sandbox.advance(Duration::from_secs(3)).await.unwrap();
    assert_eq!(statuses(&world), ["SUCCESSFUL", "IN_PROGRESS"]);
    world.sandbox.advance(START).await.unwrap();
    assert_eq!(world.values().await, ["v1", "v2"]);
    assert_eq!(statuses(&world), ["SUCCESSFUL", "IN_PROGRESS"]);
    world.sandbox.advance(START + Duration::from_secs(10)).await.unwrap();
    assert_eq!(world.values().await, ["v2", "v2"]);
    assert_eq!(statuses(&world), ["SUCCESSFUL", "SUCCESSFUL"]);
}

#[tokio::test]
async fn members_are_injected_by_their_json_key() {
    let json = ServiceDeclaration { secrets: [("VALUE".to_owned(), member("s", "A"))].into(), ..declaration() };
    let world = world_with(json, r#"{"A":"one","B":2}"#).await;
    assert_eq!(world.values().await, ["one", "one"]);
    world.change(r#"{"B":2}"#).await;
    deploy(&world.ecs).await;
    world.sandbox.advance(Duration::from_secs(40)).await.unwrap();
    let told = world.sandbox.ecs().service(ID).unwrap().stopped;
    assert!(told[0].ends_with("retrieved secret from Secrets Manager did not contain json key A"), "{told:?}");
    assert_eq!(world.values().await, ["one", "one"]);
}

#[tokio::test]
async fn the_circuit_breaker_rolls_back_after_three_failures() {
    let world = world(declaration()).await;
    world.sandbox.ecs().fail_new_tasks(ID, true).unwrap();
    deploy(&world.ecs).await;
    world.sandbox.advance(Duration::from_secs(300)).await.unwrap();
    assert_eq!(statuses(&world), ["SUCCESSFUL", "ROLLBACK_SUCCESSFUL"]);
    let list = world.list().await;
    let expected = "Service deployment rolled back because the circuit breaker threshold was exceeded.";
    assert_eq!(list[0].status_reason(), Some(expected));
    assert_eq!(world.sandbox.ecs().deployments(ID).unwrap()[1].failed_tasks, 3);
    assert_eq!(world.values().await, ["v1", "v1"]);
}

#[tokio::test]
async fn a_rollback_starts_tasks_that_read_the_new_value() {
    let world = world(declaration()).await;
    world.change("v2").await;
    deploy(&world.ecs).await;
    world.sandbox.advance(Duration::from_secs(3) + START).await.unwrap();
    world.sandbox.ecs().fail_new_tasks(ID, true).unwrap();
    world.sandbox.advance(Duration::from_secs(140)).await.unwrap();
    assert_eq!(statuses(&world)[1], "ROLLBACK_IN_PROGRESS");
    world.sandbox.ecs().fail_new_tasks(ID, false).unwrap();
    world.sandbox.advance(Duration::from_secs(120)).await.unwrap();
    assert_eq!(statuses(&world)[1], "ROLLBACK_SUCCESSFUL");
    assert_eq!(world.values().await, ["v1", "v2"]);
}

#[tokio::test]
async fn a_rollback_that_cannot_start_tasks_fails() {
    let world = world(declaration()).await;
    deploy(&world.ecs).await;
    world.sandbox.advance(Duration::from_secs(3) + START).await.unwrap();
    world.sandbox.ecs().fail_new_tasks(ID, true).unwrap();
    world.sandbox.advance(Duration::from_secs(600)).await.unwrap();
    assert_eq!(statuses(&world), ["SUCCESSFUL", "ROLLBACK_FAILED"]);
}

#[tokio::test]
async fn without_rollback_the_circuit_breaker_stops() {
    let world = world(ServiceDeclaration { rollback: false, ..declaration() }).await;
    world.sandbox.ecs().fail_new_tasks(ID, true).unwrap();
    deploy(&world.ecs).await;
    world.sandbox.advance(Duration::from_secs(300)).await.unwrap();
    assert_eq!(statuses(&world), ["SUCCESSFUL", "STOPPED"]);
}

#[tokio::test]
async fn without_a_circuit_breaker_a_deployment_goes_on() {
    let world = world(ServiceDeclaration { circuit_breaker: false, ..declaration() }).await;
    world.sandbox.ecs().fail_new_tasks(ID, true).unwrap();
    deploy(&world.ecs).await;
    world.sandbox.advance(Duration::from_secs(2 * 86_400)).await.unwrap();
    assert_eq!(statuses(&world), ["SUCCESSFUL", "IN_PROGRESS"]);
    world.sandbox.ecs().fail_new_tasks(ID, false).unwrap();
    world.sandbox.advance(Duration::from_secs(3600)).await.unwrap();
    assert_eq!(statuses(&world), ["SUCCESSFUL", "SUCCESSFUL"]);
}

#[tokio::test]
async fn a_newer_deployment_stops_the_one_under_way() {
    let world = world(declaration()).await;
    deploy(&world.ecs).await;
    world.sandbox.advance(Duration::from_secs(10)).await.unwrap();
    deploy(&world.ecs).await;
    assert_eq!(statuses(&world), ["SUCCESSFUL", "STOP_REQUESTED", "PENDING"]);
    world.sandbox.advance(Duration::from_secs(120)).await.unwrap();
    assert_eq!(statuses(&world), ["SUCCESSFUL", "STOPPED", "SUCCESSFUL"]);
}

#[tokio::test]
async fn a_person_stops_a_deployment_and_it_rolls_back() {
    let world = world(declaration()).await;
    deploy(&world.ecs).await;
    world.sandbox.advance(Duration::from_secs(10)).await.unwrap();
    let arn = world.list().await[0].service_deployment_arn().unwrap().to_owned();
    let stop = || world.ecs.stop_service_deployment().service_deployment_arn(&arn);
    stop().send().await.unwrap();
    assert_eq!(statuses(&world)[1], "ROLLBACK_REQUESTED");
    world.sandbox.advance(Duration::from_secs(60)).await.unwrap();
    assert_eq!(statuses(&world)[1], "ROLLBACK_SUCCESSFUL");
    assert_eq!(problem(stop().send().await).0, "ConflictException");
    let unknown = world.ecs.stop_service_deployment().service_deployment_arn("arn:aws:ecs:x");
    assert_eq!(problem(unknown.send().await).0, "ServiceDeploymentNotFoundException");
}

#[tokio::test]
async fn a_task_that_ends_is_replaced_without_a_deployment() {
    let world = world(declaration()).await;
    world.change("v2").await;
    world.sandbox.ecs().kill_task(ID).unwrap();
    world.until_tasks(1).await;
    world.sandbox.advance(START + Duration::from_secs(5)).await.unwrap();
    assert_eq!(world.values().await, ["v1", "v2"]);
    assert_eq!(statuses(&world), ["SUCCESSFUL"]);
}

#[tokio::test]
async fn an_answer_under_way_survives_a_deployment() {
    let world = world(ServiceDeclaration { tasks: 1, start_time: Duration::ZERO, ..declaration() }).await;
    let slow = tokio::spawn(world.get("slowly/VALUE"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.change("v2").await;
    deploy(&world.ecs).await;
    world.sandbox.advance(Duration::from_secs(10)).await.unwrap();
    assert_eq!(world.values().await, ["v2"]);
    assert_eq!(slow.await.unwrap(), "v1");
}

#[tokio::test]
async fn errors_are_those_of_the_service() {
    let world = world(declaration()).await;
    let update = |cluster: &str, service: &str| {
        world.ecs.update_service().cluster(cluster).service(service).force_new_deployment(true).send()
    };
    assert_eq!(problem(update("other", "web").await), pair("ClusterNotFoundException", "Cluster not found."));
    assert_eq!(problem(update(CLUSTER, "other").await), pair("ServiceNotFoundException", "Service not found."));
    let list = world.ecs.list_service_deployments().cluster(CLUSTER).service("other").send().await;
    assert_eq!(problem(list).0, "ServiceNotFoundException");
    let none = world.ecs.describe_services().cluster(CLUSTER).set_services(Some(vec![])).send().await;
    assert_eq!(problem(none), pair("InvalidParameterException", "Services cannot be empty."));
    world.sandbox.ecs().delete(ID).unwrap();
    assert_eq!(problem(update(CLUSTER, "web").await), pair("ServiceNotActiveException", "Service was not ACTIVE."));
    let described = world.describe("web").await;
    assert_eq!((described.status(), described.running_count()), (Some("INACTIVE"), 0));
}

#[tokio::test]
async fn a_missing_service_is_a_failure_of_the_answer() {
    let world = world(declaration()).await;
    let described = world.ecs.describe_services().cluster(CLUSTER).services("web").services("other").send().await;
    let described = described.unwrap();
    assert_eq!(described.services().len(), 1);
    let failure = &described.failures()[0];
    assert_eq!(failure.reason(), Some("MISSING"));
    assert_eq!(failure.arn(), Some("arn:aws:ecs:us-east-1:000000000000:service/shop/other"));
}

#[tokio::test]
async fn services_are_found_by_their_arns_too() {
    let world = world(declaration()).await;
    let arn = world.describe("web").await.service_arn().unwrap().to_owned();
    assert_eq!(arn, "arn:aws:ecs:us-east-1:000000000000:service/shop/web");
    let cluster = "arn:aws:ecs:us-east-1:000000000000:cluster/shop";
    let updated = world.ecs.update_service().cluster(cluster).service(&arn).force_new_deployment(true).send().await;
    assert_eq!(updated.unwrap().service().unwrap().deployments().len(), 2);
    let elsewhere = "arn:aws:ecs:us-east-1:000000000000:service/other/web";
    let described = world.ecs.describe_services().cluster(cluster).services(elsewhere).send().await.unwrap();
    assert_eq!(described.failures()[0].arn(), Some(elsewhere));
}

#[tokio::test]
async fn other_controllers_refuse_a_forced_deployment() {
    let kinds = [
        (Controller::CodeDeploy, DeploymentControllerType::CodeDeploy),
        (Controller::External, DeploymentControllerType::External),
    ];
    for (controller, shown) in kinds {
        let world = world(ServiceDeclaration { controller: Some(controller), ..declaration() }).await;
        let described = world.describe("web").await;
        assert_eq!(described.deployment_controller().unwrap().r#type(), &shown);
        let update = world.ecs.update_service().cluster(CLUSTER).service("web").force_new_deployment(true);
        let (code, message) = problem(update.send().await);
        assert_eq!(code, "InvalidParameterException");
        assert!(message.starts_with("Cannot force a new deployment on services with a"), "{message}");
    }
}

#[tokio::test]
async fn an_update_without_force_deploys_nothing() {
    let world = world(declaration()).await;
    let updated = world.ecs.update_service().cluster(CLUSTER).service("web").send().await.unwrap();
    assert_eq!(updated.service().unwrap().desired_count(), 2);
    assert_eq!(statuses(&world), ["SUCCESSFUL"]);
    let other = world.ecs.update_service().cluster(CLUSTER).service("web").enable_execute_command(true).send().await;
    assert_eq!(problem(other).0, "InvalidParameterException");
}

#[tokio::test]
async fn deployments_are_listed_newest_first_in_pages() {
    let world = world(ServiceDeclaration { start_time: Duration::ZERO, ..declaration() }).await;
    for _ in 0..4 {
        deploy(&world.ecs).await;
        world.sandbox.advance(Duration::from_secs(30)).await.unwrap();
    }
    let list = || world.ecs.list_service_deployments().cluster(CLUSTER).service("web");
    let first = list().max_results(3).send().await.unwrap();
    let second = list().max_results(3).next_token(first.next_token().unwrap()).send().await.unwrap();
    assert_eq!(second.next_token(), None);
    let all: Vec<_> = first.service_deployments().iter().chain(second.service_deployments()).cloned().collect();
    assert_eq!(all.len(), 5);
    assert!(all.is_sorted_by_key(|deployment| std::cmp::Reverse(*deployment.created_at().unwrap())));
    let newest = &all[0];
    assert!(newest.created_at().unwrap() < newest.started_at().unwrap());
    assert!(newest.started_at().unwrap() <= newest.finished_at().unwrap());
    let prefix = "arn:aws:ecs:us-east-1:000000000000:service-";
    let ids = [newest.service_deployment_arn().unwrap(), newest.target_service_revision_arn().unwrap()];
    assert!(ids[0].starts_with(&format!("{prefix}deployment/shop/web/")), "{ids:?}");
    assert!(ids[1].starts_with(&format!("{prefix}revision/shop/web/")), "{ids:?}");
    assert_eq!(problem(list().next_token("x").send().await).0, "InvalidParameterException");
    assert_eq!(problem(list().max_results(101).send().await).0, "InvalidParameterException");

    let later = CreatedAt::builder().after(*all[2].created_at().unwrap()).build();
    assert_eq!(list().created_at(later).send().await.unwrap().service_deployments().len(), 2);
    let stopped = list().status(ServiceDeploymentStatus::Stopped).send().await.unwrap();
    assert!(stopped.service_deployments().is_empty());
    let successful = list().status(ServiceDeploymentStatus::Successful).send().await.unwrap();
    assert_eq!(successful.service_deployments().len(), 5);
}

#[tokio::test]
async fn describe_services_shows_the_rollout() {
    let world = world(declaration()).await;
    let state = async || {
        let described = world.describe("web").await;
        let primary = described.deployments()[0].clone();
        (described.deployments().len(), primary.rollout_state().unwrap().clone(), primary.running_count())
    };
    assert_eq!(state().await, (1, DeploymentRolloutState::Completed, 2));
    deploy(&world.ecs).await;
    world.sandbox.advance(Duration::from_secs(3) + START).await.unwrap();
    assert_eq!(state().await, (2, DeploymentRolloutState::InProgress, 1));
    world.sandbox.advance(Duration::from_secs(60)).await.unwrap();
    assert_eq!(state().await, (1, DeploymentRolloutState::Completed, 2));
    let described = world.describe("web").await;
    let breaker = described.deployment_configuration().unwrap().deployment_circuit_breaker().unwrap();
    assert!(breaker.enable() && breaker.rollback());
    // ECS leaves out the controller of a service that was created without one.
    assert_eq!(described.deployment_controller(), None);
}

#[tokio::test]
async fn times_are_those_of_the_sandbox() {
    let world = world(declaration()).await;
    world.sandbox.advance(Duration::from_secs(86_400)).await.unwrap();
    let before = world.sandbox.now() - Duration::from_secs(1);
    deploy(&world.ecs).await;
    let created = SystemTime::try_from(*world.list().await[0].created_at().unwrap()).unwrap();
    assert!(created >= before && created <= world.sandbox.now());
    let deployments = world.sandbox.ecs().deployments(ID).unwrap();
    assert_eq!(deployments[1].status, DeploymentStatus::Pending);
}

#[tokio::test]
async fn faults_hit_calls_of_ecs() {
    let world = world(declaration()).await;
    let rule = |fault| FaultRule::on("UpdateService", fault).times(1);
    world.sandbox.faults().add(rule(Fault::InternalServiceError));
    let update = || world.ecs.update_service().cluster(CLUSTER).service("web").force_new_deployment(true).send();
    assert_eq!(problem(update().await).0, "ServerException");
    world.sandbox.faults().clear();
    world.sandbox.faults().add(rule(Fault::Throttle));
    assert_eq!(problem(update().await).0, "ThrottlingException");
    assert_eq!(statuses(&world), ["SUCCESSFUL"]);
    assert_eq!(world.sandbox.calls()["UpdateService"], 2);
}

#[tokio::test]
async fn the_aws_cli_deploys_and_lists() {
    let world = world(declaration()).await;
    let endpoint = world.sandbox.endpoint();
    let aws = async |arguments: &'static [&'static str]| {
        let mut command = tools::tool("aws", &endpoint);
        let output = tokio::task::spawn_blocking(move || command.arg("ecs").args(arguments).output().unwrap()).await;
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let updated = aws(&["update-service", "--cluster", "shop", "--service", "web", "--force-new-deployment"]).await;
    assert_eq!(updated["service"]["deployments"][0]["rolloutState"], "IN_PROGRESS");
    let listed = aws(&["list-service-deployments", "--cluster", "shop", "--service", "web"]).await;
    // The CLI takes longer to start than a deployment to begin.
    let status = listed["serviceDeployments"][0]["status"].as_str().unwrap();
    assert!(["PENDING", "IN_PROGRESS"].contains(&status), "{status}");
    world.sandbox.advance(Duration::from_secs(120)).await.unwrap();
    let described = aws(&["describe-services", "--cluster", "shop", "--services", "web"]).await;
    assert_eq!(described["services"][0]["runningCount"], 2);
}
