//! TLS to PostgreSQL, as the documentation of `StoreUrl` promises it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use store::testing::ThrowawayPostgres;
use store::{Store, StoreError};

/// A server with a certificate for `localhost`, and the PEM text of the authority that signed it.
fn server_with_tls() -> (ThrowawayPostgres, String) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = certificate.signed_by(&key, &authority).unwrap();

    let server = ThrowawayPostgres::start();
    server.sql("postgres", "ALTER SYSTEM SET ssl = on");
    server.stop_immediate();
    write_for_server(&server, "server.crt", &certificate.pem());
    write_for_server(&server, "server.key", &key.serialize_pem());
    server.start_again();
    (server, authority.pem())
}

fn write_for_server(server: &ThrowawayPostgres, name: &str, text: &str) {
    let path = server.data_directory().join(name);
    let owner = fs::metadata(server.data_directory()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
}

fn open(url: &str) -> (Box<dyn Store>, Result<(), StoreError>) {
    let mut store = store::open(&url.parse().unwrap()).unwrap();
    let prepared = store.prepare().map(drop);
    (store, prepared)
}

#[test]
fn sslmode_does_what_is_promised() {
    let (server, authority) = server_with_tls();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    fs::write(&file, authority).unwrap();
    let by_name = server.url("totals").replace("127.0.0.1", "localhost");
    let root = |path: &Path| format!("sslrootcert={}", path.display().to_string().replace('/', "%2F"));

    let encrypted = |url: &str| {
        let (store, prepared) = open(url);
        prepared.unwrap();
        let sessions = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                         WHERE application_name = 'incrementer'";
        let answer = server.sql("postgres", sessions);
        drop(store);
        // The next one must not see this session any more.
        while !server.sql("postgres", sessions).is_empty() {}
        answer
    };
    assert_eq!(encrypted(&by_name), "t", "prefer takes a certificate that it can't verify");
    assert_eq!(encrypted(&format!("{by_name}?sslmode=disable")), "f");
    for mode in ["require", "verify-ca", "verify-full"] {
        assert_eq!(encrypted(&format!("{by_name}?sslmode={mode}&{}", root(&file))), "t");
    }

    let refused = |url: &str| match open(url).1 {
        Err(StoreError::Refused(text)) => text,
        other => panic!("{url}: {other:?}"),
    };
    let unknown = refused(&format!("{by_name}?sslmode=require"));
    assert!(unknown.contains("sslrootcert") || unknown.contains("ca-certificates"), "{unknown}");
    let other_name = refused(&format!("{}?sslmode=require&{}", server.url("totals"), root(&file)));
    assert!(other_name.contains("certificate"), "{other_name}");
    let missing = refused(&format!("{by_name}?sslmode=require&{}", root(Path::new("/nowhere/ca.pem"))));
    assert!(missing.contains("/nowhere/ca.pem"), "{missing}");
    let empty = folder.path().join("empty.pem");
    fs::write(&empty, "").unwrap();
    assert!(refused(&format!("{by_name}?{}", root(&empty))).contains("none in PEM form"));
}

#[test]
fn a_server_without_tls_is_refused_where_the_url_insists() {
    let server = ThrowawayPostgres::start();
    open(&server.url("totals")).1.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let authority = CertificateParams::new(Vec::new()).unwrap();
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    fs::write(&file, authority.pem()).unwrap();
    let root = file.display().to_string().replace('/', "%2F");
    let (_, prepared) = open(&format!("{}?sslmode=require&sslrootcert={root}", server.url("totals")));
    assert!(matches!(&prepared, Err(StoreError::Refused(text)) if text.contains("TLS")), "{prepared:?}");
}
