//! Addresses: the name of a secret in them, and URLs that are refused.

use super::*;

#[tokio::test]
async fn a_name_stays_one_segment_of_the_path() {
    let application = Application::start(|| StatusCode::OK).await;
    let target = application.target("/apps/{name}/verify?of={name}", &[]);
    for (name, encoded) in [
        ("admin-token", "admin-token"),
        ("shop/admin-token", "shop%2Fadmin-token"),
        ("/prod/shop", "%2Fprod%2Fshop"),
        ("a.b_c~d", "a.b_c~d"),
        ("...", "..."),
        ("evil.com", "evil.com"),
        ("x@y", "x%40y"),
        ("a+b=c", "a%2Bb%3Dc"),
        ("%2f", "%252f"),
        ("%2e%2e", "%252e%252e"),
        ("a?b#c", "a%3Fb%23c"),
        ("//evil.com", "%2F%2Fevil.com"),
        ("\\evil", "%5Cevil"),
        ("é😀", "%C3%A9%F0%9F%98%80"),
        ("a\r\nx-evil: 1\r\n\r\n", "a%0D%0Ax-evil%3A%201%0D%0A%0D%0A"),
        ("{name}{1}", "%7Bname%7D%7B1%7D"),
        ("\0", "%00"),
    ] {
        verify(&target, name).await.unwrap();
        let seen = application.seen().pop().unwrap();
        assert_eq!(seen.path, format!("/apps/{encoded}/verify?of={encoded}"), "{name:?}");
        assert!(!seen.headers.contains_key("x-evil"));
    }
}

#[tokio::test]
async fn parts_of_a_name_are_numbered_from_one() {
    let application = Application::start(|| StatusCode::OK).await;
    let target = application.target("/{2}/of/{1}", &[]);
    for (name, path) in
        [("shop/admin", "/admin/of/shop"), ("shop/admin/token", "/admin/of/shop"), ("/shop", "/shop/of/")]
    {
        verify(&target, name).await.unwrap();
        assert_eq!(application.seen().pop().unwrap().path, path);
    }
    let requests = application.seen().len();
    let problem = verify(&target, "shop").await.unwrap_err();
    assert!(problem.contains("URL cannot be made for a secret named shop"), "{problem}");
    assert_eq!(application.seen().len(), requests, "nothing is sent to half a URL");
}

#[tokio::test]
async fn no_name_climbs_out_of_its_place_in_the_path() {
    // Servers and proxies resolve dot segments (RFC 3986 §5.2.4), encoded slashes around them often included.
    let application = Application::start(|| StatusCode::OK).await;
    let whole = application.target("/apps/{name}/verify", &[]);
    let part = application.target("/apps/{2}/verify", &[]);
    for name in ["a/../b", "a/..", "../b", "..", ".", "a/./b", "a/../../admin"] {
        let problem = verify(&whole, name).await.unwrap_err();
        assert!(problem.contains("URL cannot be made"), "{problem}");
    }
    for name in ["a/../b", "a/.."] {
        let problem = verify(&part, name).await.unwrap_err();
        assert!(problem.contains("URL cannot be made"), "{problem}");
    }
    assert_eq!(application.seen().len(), 0);
    verify(&part, "a/b..").await.unwrap();
    assert_eq!(application.seen().pop().unwrap().path, "/apps/b../verify");
}

#[tokio::test]
async fn in_the_host_name_stands_one_plain_label_or_nothing() {
    let target = verify_at("https://{1}.localhost:1/verify").unwrap().unwrap();
    for hostile in [
        "",
        "evil.com",
        "evil.com/x",
        "x@y",
        "a@evil.com",
        "evil.com#",
        "evil.com?",
        "a:80",
        "%2f",
        "é",
        "a\r\nb",
        "a b",
        "A",
        "..",
        ".",
        "a_b",
        "/shop",
        "[::1]",
        "a\\b",
        "a,b",
    ] {
        let problem = verify(&target, hostile).await.unwrap_err();
        assert!(problem.starts_with("the target's URL cannot be made for a secret named"), "{hostile:?}: {problem}");
    }
    let long = "x".repeat(64);
    assert!(verify(&target, &long).await.unwrap_err().contains("cannot be made"));
    for label in ["shop", "shop-2/admin-token", &long[..63]] {
        let problem = verify(&target, label).await.unwrap_err();
        let host = format!("{}.localhost:1", label.split('/').next().unwrap());
        assert!(problem.contains(&host) && !problem.contains("cannot be made"), "{problem}");
    }
}

#[test]
fn an_authority_tells_one_application_from_another() {
    let target = verify_at("https://{1}.example.com:8443/{2}/verify").unwrap().unwrap();
    let authority = |name: &str| target.authority(name);
    assert_eq!(authority("shop/a").as_deref(), Some("shop.example.com:8443"));
    assert_eq!(authority("shop/a"), authority("shop/b"));
    assert_ne!(authority("shop/a"), authority("mail/a"));
    assert_eq!(authority("no.label/a"), None);
}

#[test]
fn a_whole_name_may_not_stand_in_the_host_name() {
    for url in ["https://{name}.example.com/", "https://{name}/", "https://example.{name}/"] {
        let error = verify_at(url).unwrap_err();
        assert_eq!(error.name(), "InvalidConfiguration", "{url}");
        assert!(error.to_string().contains("{name} (not in the host name)"), "{error}");
    }
}

#[test]
fn http_is_for_the_loopback_interface_only() {
    for loopback in [
        "http://127.0.0.1:8080/verify",
        "http://127.9.8.7/verify",
        "http://[::1]:8080/verify",
        "http://[::1]",
        "http://localhost:8080/{name}",
    ] {
        assert!(verify_at(loopback).unwrap().is_some(), "{loopback}");
    }
    for insecure in [
        "http://example.com/verify",
        "http://127.0.0.1.evil.com/verify",
        "http://localhost.evil.com/verify",
        "http://evil.com/localhost",
        "http://evil.com:80/?127.0.0.1",
        "http://10.0.0.1/",
        "http://0.0.0.0/",
        "http://[::]/",
        "http://[::2]/",
        "http://[::1].evil.com/",
        "http://[::1]:80.evil.com/",
        "http://127.0.0.1:80.evil.com/",
        "http://169.254.169.254/latest/meta-data",
        "http://{1}/",
        "http://{1}.example.com/",
        "http://127.0.0.1.{1}/",
        // With the name that patterns are tried with, this would be localhost; with others it is not.
        "http://loc{1}lhost/",
        "HTTP://example.com/",
    ] {
        for variable in ["TARGET_VERIFY_URL", "TARGET_REFRESH_URL"] {
            let error = target(&[("TARGET_VERIFY_URL", "https://ok.example.com/"), (variable, insecure)]).unwrap_err();
            assert_eq!(error, RotationError::InsecureUrl { variable: variable.to_owned() }, "{insecure}");
        }
    }
}

#[test]
fn a_url_that_is_none_is_refused_with_what_to_write() {
    for (url, expected) in [
        ("example.com/verify", "expected a URL such as https://"),
        ("https:/example.com", "expected a URL such as https://"),
        ("http://localhost@evil.com/", "without user name, password and fragment"),
        ("https://user:password@example.com/", "without user name, password and fragment"),
        ("https://example.com/#x", "without user name, password and fragment"),
        ("ftp://example.com/", "expected https://"),
        ("{1}://example.com/", "expected https://"),
        ("https://", "expected a URL"),
        ("https:///verify", "expected a URL"),
        ("https://exa mple.com/", "expected a URL"),
        ("https://example.com/{10}", "{1} to {9}"),
        ("https://example.com/{0}", "{1} to {9}"),
        ("https://example.com/{}", "{1} to {9}"),
        ("https://example.com/{host}", "{1} to {9}"),
        ("https://example.com/{name", "{1} to {9}"),
    ] {
        let error = verify_at(url).unwrap_err();
        assert_eq!(error.name(), "InvalidConfiguration", "{url}");
        let message = error.to_string();
        assert!(message.starts_with("environment variable TARGET_VERIFY_URL: "), "{message}");
        assert!(message.contains(expected), "{url}: {message}");
    }
}

#[test]
fn no_url_means_no_target_and_a_refresh_alone_is_an_error() {
    assert!(target(&[]).unwrap().is_none());
    assert!(target(&[("TARGET_HEADER", "x-admin-token"), ("TARGET_VERIFY_URL", "")]).unwrap().is_none());
    let error = target(&[("TARGET_REFRESH_URL", "https://example.com/refresh")]).unwrap_err();
    assert!(
        error.to_string().starts_with("environment variable TARGET_VERIFY_URL: is not set, but TARGET_REFRESH_URL is")
    );
    let misspelt = target(&[("TARGET_VERIFYURL", "https://example.com/")]).unwrap_err().to_string();
    assert!(misspelt.starts_with("environment variable TARGET_VERIFYURL: is not a setting"), "{misspelt}");
    let verify_only = verify_at("https://example.com/").unwrap().unwrap();
    assert!(!verify_only.settings().can_refresh);
}

#[test]
fn a_header_that_is_none_is_refused() {
    for variable in ["TARGET_HEADER", "TARGET_INSTANCE_HEADER"] {
        for bad in ["x admin", "x-admin:", "é", "x\r\ny"] {
            let error = target(&[("TARGET_VERIFY_URL", "https://example.com/"), (variable, bad)]).unwrap_err();
            let expected = format!("environment variable {variable}: expected the name of an HTTP header");
            assert_eq!(error.to_string(), expected, "{bad:?}");
        }
    }
}
