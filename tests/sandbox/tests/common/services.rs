//! A sandbox with one service, and a real client of ECS.

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_ecs::Client;
use aws_sdk_ecs::config::retry::RetryConfig;
use aws_sdk_ecs::config::{BehaviorVersion, Region};
use aws_sdk_ecs::types::{Service, ServiceDeploymentBrief};
use http_body_util::{BodyExt as _, Empty};
use sandbox::{Sandbox, ServiceDeclaration, Settings};

pub(crate) const CLUSTER: &str = "shop";
pub(crate) const ID: &str = "shop/web";

pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    pub(crate) ecs: Client,
    secrets: aws_sdk_secretsmanager::Client,
}

/// The secret `s` has the value `v1`.
pub(crate) async fn world(declaration: ServiceDeclaration) -> World {
    world_with(declaration, "v1").await
}

pub(crate) async fn world_with(declaration: ServiceDeclaration, value: &str) -> World {
    let sandbox = Sandbox::start(Settings::default()).await.unwrap();
    let secrets = super::client(&sandbox, "tester", RetryConfig::disabled());
    secrets.create_secret().name("s").secret_string(value).send().await.unwrap();
    let tasks = declaration.tasks;
    sandbox.ecs().run(declaration).await.unwrap();
    let world = World { ecs: ecs(&sandbox.endpoint()), sandbox, secrets };
    let service = world.sandbox.ecs().service(ID).unwrap();
    assert_eq!(service.tasks.len(), tasks, "{:?}", service.stopped);
    world
}

pub(crate) fn ecs(endpoint: &str) -> Client {
    let config = aws_sdk_ecs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("tester", "secret", None, None, "test"))
        .endpoint_url(endpoint)
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .retry_config(RetryConfig::disabled())
        .build();
    Client::from_conf(config)
}

impl World {
    pub(crate) async fn change(&self, value: &str) {
        self.secrets.put_secret_value().secret_id("s").secret_string(value).send().await.unwrap();
    }

    pub(crate) async fn describe(&self, service: &str) -> Service {
        let described = self.ecs.describe_services().cluster(CLUSTER).services(service).send().await.unwrap();
        described.services()[0].clone()
    }

    pub(crate) async fn list(&self) -> Vec<ServiceDeploymentBrief> {
        let listed = self.ecs.list_service_deployments().cluster(CLUSTER).service("web").send().await.unwrap();
        listed.service_deployments.unwrap()
    }

    /// What one connection to the service's address is answered.
    pub(crate) fn get(&self, path: &str) -> impl Future<Output = String> + Send + 'static {
        let address = self.sandbox.ecs().service(ID).unwrap().address;
        let url = format!("http://{address}/{path}");
        async move { get(&url).await }
    }

    /// The variable `VALUE` of each task, sorted; each is asked through the service's address.
    pub(crate) async fn values(&self) -> Vec<String> {
        let mut values = Vec::new();
        for _ in self.sandbox.ecs().service(ID).unwrap().tasks {
            values.push(self.get("VALUE").await);
        }
        values.sort();
        values
    }

    /// Waits until the service has so many tasks.
    pub(crate) async fn until_tasks(&self, count: usize) {
        let found = async {
            while self.sandbox.ecs().service(ID).unwrap().tasks.len() != count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(super::PATIENCE, found).await.unwrap();
    }
}

async fn get(url: &str) -> String {
    let mut client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
    let client = client.pool_max_idle_per_host(0).build_http::<Empty<&[u8]>>();
    let answer = client.get(url.parse().unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}
