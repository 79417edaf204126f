//! TLS by rustls.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::StoreError;
use crate::url::PostgresPlace;

/// A connector for `place`, as [`StoreUrl`](crate::StoreUrl) promises for its `sslmode`.
pub(crate) fn connector(place: &PostgresPlace) -> Result<MakeRustlsConnect, StoreError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| StoreError::Refused(format!("TLS can't be set up: {error}")))?;

    let insist = place.config.get_ssl_mode() == SslMode::Require;
    let roots = Arc::new(roots(place.root_certificates.as_deref())?);
    let strict = if roots.is_empty() {
        None
    } else {
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        Some(verifier.map_err(|error| StoreError::Refused(format!("TLS can't be set up: {error}")))?)
    };
    let verifier: Arc<dyn ServerCertVerifier> = match (insist, strict) {
        (true, Some(strict)) => strict,
        (true, None) => {
            return Err(StoreError::Refused(
                "sslmode asks for a verified certificate, and this system has no trusted ones to verify it by: \
                 install them (ca-certificates), or name a file with sslrootcert=/path/of/ca.pem in the store's URL"
                    .to_owned(),
            ));
        }
        (false, strict) => Arc::new(Opportunistic { strict, provider, warned: AtomicBool::new(false) }),
    };
    let config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, StoreError> {
    let mut roots = RootCertStore::empty();
    // Some certificates of a system are always unreadable or outdated; the rest will do.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = file {
        let bad = |reason: &dyn std::fmt::Display| {
            StoreError::Refused(format!(
                "sslrootcert: {} has no usable certificates: {reason}",
                file.display()
            ))
        };
        let mut found = 0;
        for certificate in CertificateDer::pem_file_iter(file).map_err(|error| bad(&error))? {
            let certificate = certificate.map_err(|error| bad(&error))?;
            roots.add(certificate).map_err(|error| bad(&error))?;
            found += 1;
        }
        if found == 0 {
            return Err(bad(&"it holds none in PEM form"));
        }
    }
    Ok(roots)
}

/// For `sslmode=prefer`. Who can forge a certificate can as well say that there is no TLS, and
/// would be believed; so an unverified one still keeps listeners out, and refusing it would
/// protect nobody.
#[derive(Debug)]
struct Opportunistic {
    strict: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<rustls::crypto::CryptoProvider>,
    warned: AtomicBool,
}

impl ServerCertVerifier for Opportunistic {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = match &self.strict {
            Some(strict) => strict
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
                .map_err(|error| error.to_string()),
            None => Err("this system trusts no authorities".to_owned()),
        };
        if let Err(reason) = verdict
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                reason,
                "The connection to PostgreSQL is encrypted, but who answers could not be verified; \
                 sslmode=verify-full in the store's URL insists on it."
            );
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
