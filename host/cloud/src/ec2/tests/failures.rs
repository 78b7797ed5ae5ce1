//! Error classes, retries, time-outs, and what is counted.

use std::time::{Duration, Instant};

use reservoir_core::policy::Family;

use super::*;

#[tokio::test]
async fn every_call_is_signed_with_the_role_and_names_its_product() {
    let (server, cloud) = aws(|_| Reply::ok("<R/>")).await;
    cloud.call(Request::DeleteNetworkInterface { eni: ENI.to_owned() }).await.unwrap();
    let call = &ec2_calls(&server)[0];
    assert!(call.header("user-agent").unwrap().ends_with(" amazon-vpc-cni-k8s/v1.23.1"), "{call:?}");
    // The region is that of the identity document.
    assert!(call.header("authorization").unwrap().contains("/us-west-2/ec2/aws4_request"), "{call:?}");
}

/// What `call` makes of an error answer, and how often it asked.
async fn refusal(request: Request, status: u16, code: &str, message: &str) -> (CloudError, usize) {
    let body = error_body(code, message);
    let (server, cloud) = aws(move |_| Reply::status(status, &body)).await;
    let error = cloud.call(request).await.unwrap_err();
    (error, ec2_calls(&server).len())
}

#[tokio::test]
async fn error_codes_become_decisions() {
    let assign = || Request::AssignPrivateIpAddresses { eni: ENI.to_owned(), unit: Unit::Ip, count: 1 };
    for (status, code, message, kind) in [
        (400, "InsufficientFreeAddressesInSubnet", "The subnet is full.", ErrorKind::NoFreeAddress),
        (400, "InsufficientCidrBlocks", "No block.", ErrorKind::NoFreePrefix),
        (400, "PrivateIpAddressLimitExceeded", "Too many.", ErrorKind::AddressLimit),
        (400, "AttachmentLimitExceeded", "Interface count 5 exceeds the limit", ErrorKind::InterfaceLimit),
        (
            400,
            "InvalidNetworkInterfaceID.NotFound",
            "The networkInterface ID 'eni-1' does not exist",
            ErrorKind::NotFound,
        ),
        (400, "InvalidParameterValue", "Network interface 'eni-1' is currently in use.", ErrorKind::InUse),
        (400, "InvalidParameterValue", "Something else.", ErrorKind::Refused),
        (403, "UnauthorizedOperation", "You are not authorized", ErrorKind::Unauthorized),
        (400, "OperationNotPermitted", "No.", ErrorKind::Refused),
    ] {
        let (error, asked) = refusal(assign(), status, code, message).await;
        assert_eq!((error.kind, error.code.as_str(), error.message.as_str()), (kind, code, message));
        assert_eq!((error.api, asked), ("AssignPrivateIpAddresses", 1), "{code} is final");
    }
}

#[tokio::test]
async fn a_throttled_call_comes_back_at_once() {
    for (status, code) in [(503, "RequestLimitExceeded"), (400, "Throttling"), (503, "EC2ThrottledException")] {
        let start = Instant::now();
        let (error, asked) = refusal(describe(&[ENI]), status, code, "Request limit exceeded.").await;
        assert_eq!((error.kind, asked), (ErrorKind::Throttled, 1), "{code}");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn a_server_error_is_tried_three_times() {
    let (error, asked) = refusal(describe(&[ENI]), 500, "InternalError", "Oops").await;
    assert_eq!((error.kind, error.code.as_str(), asked), (ErrorKind::Unknown, "InternalError", 3));
    let (server, cloud) = aws(|_| Reply::status(502, "<html>Bad gateway</html>")).await;
    let error = cloud.call(describe(&[ENI])).await.unwrap_err();
    assert_eq!((error.kind, error.code.as_str(), ec2_calls(&server).len()), (ErrorKind::Unknown, "", 3));
    assert!(error.message.contains("502"), "{error}");
}

#[tokio::test]
async fn a_lost_answer_is_repeated_with_the_same_token() {
    let lost = std::sync::atomic::AtomicBool::new(true);
    let xml = format!("<R>{}</R>", interface_xml("networkInterface"));
    let script = move |_: &Seen| match lost.swap(false, std::sync::atomic::Ordering::Relaxed) {
        true => Reply::Cut,
        false => Reply::ok(&xml),
    };
    let (server, cloud) = aws(script).await;
    cloud.call(Request::CreateNetworkInterface(create())).await.unwrap();
    let calls = ec2_calls(&server);
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].form(), calls[1].form());
}

#[tokio::test]
async fn a_success_that_says_nothing_is_an_unknown_outcome() {
    for body in ["", "<html>Welcome</html>", "<R><networkInterface><networkInterfaceId>eni-1"] {
        let (_server, cloud) = aws(move |_| Reply::ok(body)).await;
        let error = cloud.call(Request::CreateNetworkInterface(create())).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unknown, "{body}: {error}");
        assert!(!error.message.is_empty());
    }
}

#[tokio::test]
async fn silence_is_an_unknown_outcome() {
    let metadata = example_metadata(&[]);
    let server =
        Server::start(move |s| if s.path.starts_with("/latest/") { metadata(s) } else { Reply::Silence }).await;
    let config = CloudConfig {
        imds: ImdsConfig { endpoint: Some(server.url.clone()), ..ImdsConfig::default() },
        ec2_endpoint: Some(server.url.clone()),
        http_timeout: Duration::from_millis(100),
        ..CloudConfig::default()
    };
    let (cloud, _) = AwsCloud::connect(config).await.unwrap();
    let error = cloud.call(Request::DeleteNetworkInterface { eni: ENI.to_owned() }).await.unwrap_err();
    assert_eq!((error.kind, error.code.as_str()), (ErrorKind::Unknown, ""));
    assert_eq!(ec2_calls(&server).len(), 3);
}

#[test]
fn calls_are_counted_under_the_names_of_the_reference() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let body = error_body("InvalidNetworkInterfaceID.NotFound", "gone");
            let (_server, cloud) = aws(move |seen| match seen.body.contains("Action=CreateTags") {
                true => Reply::ok("<R/>"),
                false => Reply::status(400, &body),
            })
            .await;
            let eni = || ENI.to_owned();
            cloud.call(Request::CreateTags { resource: eni(), tags: vec![] }).await.unwrap();
            cloud.call(Request::DeleteNetworkInterface { eni: eni() }).await.unwrap_err();
            cloud.call(Request::SetSecurityGroups { eni: eni(), groups: vec![] }).await.unwrap_err();
            cloud.call(Request::AssignIpv6Prefix { eni: eni() }).await.unwrap_err();
            cloud
                .call(Request::VpcCidrs { mac: "06:00:00:00:00:00".to_owned(), family: Family::Ipv4 })
                .await
                .unwrap_err();
        });
    });
    let text = handle.render();
    for line in [
        r#"awscni_ec2api_req_count{fn="CreateTags"} 1"#,
        r#"awscni_ec2api_req_count{fn="DeleteNetworkInterface"} 1"#,
        r#"awscni_ec2api_error_count{fn="ModifyNetworkInterfaceAttribute"} 1"#,
        r#"awscni_aws_api_error_count{api="ModifyNetworkInterfaceAttribute",error="InvalidNetworkInterfaceID.NotFound"} 1"#,
        r#"awscni_aws_api_error_count{api="IMDSMetaDataOutOfSync",error="InvalidNetworkInterfaceID.NotFound"} 1"#,
        r#"awscni_aws_api_error_count{api="GetVPCIPv4CIDRBlocks",error="IMDSRequestError"} 1"#,
        r#"awscni_aws_api_latency_ms_count{api="CreateTags",error="false",status="200"} 1"#,
        r#"awscni_aws_api_latency_ms_count{api="DeleteNetworkInterface",error="true",status="InvalidNetworkInterfaceID.NotFound"} 1"#,
        // W26.
        r#"awscni_ec2api_req_count{fn="AssignIpv6Addresses"} 1"#,
        r#"awscni_aws_api_error_count{api="AssignIpv6Addresses",error="InvalidNetworkInterfaceID.NotFound"} 1"#,
        r#"awscni_aws_api_latency_ms_count{api="AssignIpv6AddressesWithContext",error="true",status="InvalidNetworkInterfaceID.NotFound"} 1"#,
        r#"awscni_aws_api_latency_ms_count{api="GetMetadata",error="true",status=""} 1"#,
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    // An interface that is already gone is what a delete wants.
    assert!(!text.contains(r#"awscni_ec2api_error_count{fn="DeleteNetworkInterface"}"#), "{text}");
}
