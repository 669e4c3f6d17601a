//! Where peers may be found.

use tidegate_mesh::{DiscoverError, Discovery, Resolver};

#[tokio::test]
async fn a_list_is_itself_in_order_and_once() {
    let list = ["b:2", "a:1", "b:2"].map(str::to_owned).to_vec();
    let mut resolver = Resolver::new(Discovery::Static(list));
    assert_eq!(resolver.resolve().await.expect("good"), ["a:1", "b:2"]);
    let wrong = Discovery::Static(vec!["nonsense".into()]);
    let said = Resolver::new(wrong).resolve().await;
    assert!(matches!(said, Err(DiscoverError::Address(it)) if it == "nonsense"));
}

#[tokio::test]
async fn a_name_is_all_its_addresses() {
    let mut resolver = Resolver::new(Discovery::dns("localhost:7883").expect("good"));
    let found = resolver.resolve().await.expect("everybody has it");
    assert!(found.contains(&"127.0.0.1:7883".to_owned()), "{found:?}");
    let mut nobody = Resolver::new(Discovery::dns("nobody.invalid:7883").expect("good"));
    assert!(matches!(nobody.resolve().await, Err(DiscoverError::Dns { .. })));
    assert!(Discovery::dns("no-port").is_err());
}

#[tokio::test]
async fn a_file_is_read_again_when_it_has_changed() {
    let path = std::env::temp_dir().join(format!("tidegate-peers-{}", std::process::id()));
    let mut resolver = Resolver::new(Discovery::File { path: path.clone() });
    assert!(matches!(resolver.resolve().await, Err(DiscoverError::File { .. })));
    std::fs::write(&path, "b:2\n# nobody\na:1 # first\n").expect("written");
    assert_eq!(resolver.resolve().await.expect("there"), ["a:1", "b:2"]);
    assert_eq!(resolver.resolve().await.expect("as before"), ["a:1", "b:2"]);
    std::fs::write(&path, "a:1\n").expect("written");
    assert_eq!(resolver.resolve().await.expect("another"), ["a:1"]);
    std::fs::write(&path, "x".repeat(70_000)).expect("written");
    assert!(matches!(resolver.resolve().await, Err(DiscoverError::File { .. })));
    std::fs::remove_file(&path).expect("there");
}
