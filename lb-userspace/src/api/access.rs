//! Who asks over TCP with a certificate, and what they may do.
//!
//! Everybody with a certificate of the client authorities may read, except what shows clients' packets and flows; who is named in `operators` may do all
//! that the unix socket takes, except naming files of the host. What is asked for is judged by its route, not by its text, and everything
//! but GET and HEAD is an order unless it is known to change nothing.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{MatchedPath, Request},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, x509::X509Name};

use super::{
    https::{Https, Refused},
    problem::{Problem, ProblemKind},
};
use crate::config::{Operator, tls_files};

/// Names of a certificate that are looked at; those beyond mean nothing.
const MAX_NAMES: usize = 64;
/// Characters of a name that reasons and logs show.
const MAX_SHOWN_CHARS: usize = 96;
/// Requests that are no orders although they are no GETs.
const ONLY_TELL: [&str; 1] = ["/v1/plans/simulate"];
/// What readers do not see: packets and flows of clients.
const OPERATORS_ONLY: [&str; 2] = ["/v1/watch", "/v1/flows"];
/// Where a query names a file, which is read as root.
const NAMES_FILES: [&str; 1] = ["/v1/diff"];

tokio::task_local! {
    /// Who asks, in the reasons that they give.
    static CALLER: String;
}

/// What somebody may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Look.
    Read,
    /// Act, too.
    Operate,
}

/// The names of a client's certificate.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Identity {
    /// Alternative names whose case means nothing: DNS and e-mail, in lower case.
    folded: Vec<String>,
    /// Common names and URIs.
    exact: Vec<String>,
    units: Vec<String>,
}

impl Identity {
    /// Of a certificate that has been verified.
    #[must_use]
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Self {
        tls_files::parse(certificate).map_or_else(|_| Self::default(), |parsed| Self::read(&parsed))
    }

    fn read(certificate: &X509Certificate<'_>) -> Self {
        let mut identity = Self::default();
        let alternatives = certificate.subject_alternative_name().ok().flatten();
        let names = alternatives.iter().flat_map(|names| &names.value.general_names);
        for name in names.take(MAX_NAMES) {
            match name {
                GeneralName::DNSName(name) | GeneralName::RFC822Name(name) => {
                    identity.folded.push(name.to_ascii_lowercase());
                }
                GeneralName::URI(name) => identity.exact.push((*name).to_owned()),
                _ => {}
            }
        }
        let subject: &X509Name<'_> = certificate.subject();
        let texts = |attributes: &mut dyn Iterator<Item = Option<&str>>| -> Vec<String> {
            attributes.flatten().take(MAX_NAMES).map(str::to_owned).collect()
        };
        identity.exact.extend(texts(&mut subject.iter_common_name().map(|name| name.as_str().ok())));
        identity.units = texts(&mut subject.iter_organizational_unit().map(|unit| unit.as_str().ok()));
        identity
    }

    /// Whether this is one of those that are meant.
    #[must_use]
    pub(super) fn is(&self, operator: &Operator) -> bool {
        match operator {
            Operator::Unit(unit) => self.units.contains(unit),
            Operator::Name(name) => {
                self.exact.contains(name) || self.folded.contains(&name.to_ascii_lowercase())
            }
        }
    }

    /// How reasons and logs call it.
    #[must_use]
    pub(super) fn shown(&self) -> String {
        let name = self.folded.first().or_else(|| self.exact.first()).or_else(|| self.units.first());
        let name = name.map_or("a certificate without a name", String::as_str);
        name.chars().filter(|c| !c.is_control()).take(MAX_SHOWN_CHARS).collect()
    }
}

/// Who asks on a connection.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) identity: Arc<Identity>,
    pub(super) https: Arc<Https>,
}

/// An operator's reason with who gave it, if that is known.
pub(super) fn signed(reason: String) -> String {
    CALLER.try_with(|caller| format!("{reason} (by {caller})")).unwrap_or(reason)
}

/// Lets through what the caller may do.
pub(super) async fn check(Extension(caller): Extension<Caller>, request: Request, next: Next) -> Response {
    let (role, name) = (caller.https.role(&caller.identity), caller.identity.shown());
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let needed = path.as_deref().map_or(Role::Read, |path| needed(request.method(), path));
    if let Err(problem) = may(role, needed, &name, path.as_deref(), &request) {
        caller.https.count(Refused::Role);
        let (method, path) = (request.method(), request.uri().path());
        tracing::warn!(client = name, %method, path, "refused: {}", problem.detail);
        return problem.into_response();
    }
    if needed == Role::Read {
        return next.run(request).await;
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = CALLER.scope(name.clone(), next.run(request)).await;
    tracing::info!(client = name, %method, path, status = answer.status().as_u16(), "ordered over TCP");
    answer
}

/// What a request to a route takes.
fn needed(method: &Method, route: &str) -> Role {
    let looks = matches!(*method, Method::GET | Method::HEAD) || ONLY_TELL.contains(&route);
    if looks && !OPERATORS_ONLY.contains(&route) { Role::Read } else { Role::Operate }
}

fn may(role: Role, needed: Role, name: &str, route: Option<&str>, request: &Request) -> Result<(), Problem> {
    let forbidden = |detail: String, remedy: &str| Err(Problem::new(ProblemKind::Forbidden, detail, remedy));
    if needed == Role::Operate && role == Role::Read {
        let detail = format!("{name} may read, and this takes an operator");
        return forbidden(
            detail,
            "ask an operator, or have the name entered as one in `operators` of [http]",
        );
    }
    if needed == Role::Read
        && route.is_some_and(|route| NAMES_FILES.contains(&route))
        && request.uri().query().is_some()
    {
        let detail = "files of the host are not named over TCP".to_owned();
        return forbidden(detail, "leave the file out, or ask on the host itself: weir diff FILE");
    }
    if needed == Role::Operate && is_foreign(request.headers()) {
        let detail = "a page from elsewhere made the browser ask".to_owned();
        return forbidden(detail, "order it with weir --server, or with curl");
    }
    Ok(())
}

/// Whether a browser says that another origin's page asks: it would show the operator's certificate all the same.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value: &header::HeaderValue| value.to_str().unwrap_or("?"));
    let other_site = text(header::HeaderName::from_static("sec-fetch-site"))
        .is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let host = text(header::HOST).unwrap_or_default();
    let other_origin = text(header::ORIGIN).is_some_and(|origin| {
        origin.split_once("://").is_none_or(|(_, from)| !from.eq_ignore_ascii_case(host))
    });
    other_site || other_origin
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_what_is_not_known_to_tell() {
        for (method, route, role) in [
            (Method::GET, "/v1/status", Role::Read),
            (Method::HEAD, "/v1/status", Role::Read),
            (Method::GET, "/v1/watch", Role::Operate),
            (Method::GET, "/v1/flows", Role::Operate),
            (Method::POST, "/v1/plans/simulate", Role::Read),
            (Method::POST, "/v1/reload", Role::Operate),
            (Method::PUT, "/v1/log", Role::Operate),
            (Method::DELETE, "/v1/status", Role::Operate),
            (Method::OPTIONS, "/v1/status", Role::Operate),
        ] {
            assert_eq!(needed(&method, route), role, "{method} {route}");
        }
    }

    #[test]
    fn names_are_matched_whole_and_of_their_kind() {
        let identity = Identity {
            folded: vec!["ops@example.net".to_owned()],
            exact: vec!["spiffe://weir/Ops".to_owned(), "Ada".to_owned()],
            units: vec!["network".to_owned()],
        };
        let name = |text: &str| Operator::Name(text.to_owned());
        for good in ["ops@example.net", "OPS@example.net", "Ada", "spiffe://weir/Ops"] {
            assert!(identity.is(&name(good)), "{good}");
        }
        for bad in ["ada", "spiffe://weir/ops", "network", "ops@example", "ops@example.net.evil", ""] {
            assert!(!identity.is(&name(bad)), "{bad}");
        }
        assert!(identity.is(&Operator::Unit("network".to_owned())));
        assert!(!identity.is(&Operator::Unit("Ada".to_owned())));
        assert_eq!(identity.shown(), "ops@example.net");
        assert_eq!(Identity::default().shown(), "a certificate without a name");
    }

    #[test]
    fn a_foreign_page_is_told_by_what_browsers_say() {
        let headers = |pairs: &[(&'static str, &str)]| -> HeaderMap {
            pairs.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect()
        };
        let edge = ("host", "edge:9440");
        assert!(!is_foreign(&headers(&[edge])));
        assert!(!is_foreign(&headers(&[
            edge,
            ("origin", "https://edge:9440"),
            ("sec-fetch-site", "same-origin")
        ])));
        for foreign in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("origin", "https://edge:9441"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(is_foreign(&headers(&[edge, foreign])), "{foreign:?}");
        }
    }
}
