"""The OAuth endpoints: FastMCP's, with some replaced by ours.

Each replacement documents how it differs. Knows nothing about storing or minting.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import parse_qs, urlsplit

from fastmcp.server.auth import OAuthProvider
from mcp.server.auth.handlers.authorize import AuthorizationHandler
from mcp.server.auth.handlers.metadata import MetadataHandler
from mcp.server.auth.handlers.revoke import RevocationHandler
from mcp.server.auth.middleware.client_auth import ClientAuthenticator
from mcp.server.auth.routes import build_metadata, cors_middleware
from mcp.server.auth.settings import ClientRegistrationOptions, RevocationOptions
from mcp.shared.auth import OAuthClientInformationFull
from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from . import pages
from .sign_in import PATH, SignInPage


def endpoints(provider: OAuthProvider, page: SignInPage, fastmcps: Sequence[Route]) -> list[Route]:
    """All endpoints, FastMCP's and ours."""
    reads, posts = ["GET", "OPTIONS"], ["POST", "OPTIONS"]
    described = cors_middleware(metadata_handler(provider).handle, reads)
    revoked = cors_middleware(RevocationHandler(provider, PublicClients(provider)).handle, posts)

    async def authorize_and_bind(request: Request) -> Response:
        response = await authorize(provider, request)
        page.bind(request, response)
        return response

    return replace_routes(
        fastmcps,
        Route("/.well-known/oauth-authorization-server", described, methods=reads),
        Route("/authorize", authorize_and_bind, methods=["GET", "POST"]),
        Route("/revoke", revoked, methods=posts),
        Route(PATH, page.handle, methods=["GET", "POST"]),
    )


def replace_routes(fastmcps: Sequence[Route], *ours: Route) -> list[Route]:
    """FastMCP's routes, with ours in place of those that have the same path."""
    replaced = {route.path for route in ours}
    return [*(route for route in fastmcps if route.path not in replaced), *ours]


def metadata_handler(provider: OAuthProvider) -> MetadataHandler:
    """Serves the server metadata, adding that clients are public and responses carry `iss`."""
    assert provider.base_url is not None
    assert provider.issuer_url is not None
    metadata = build_metadata(
        provider.base_url,
        None,
        provider.client_registration_options or ClientRegistrationOptions(),
        provider.revocation_options or RevocationOptions(),
    )
    metadata.issuer = provider.issuer_url
    metadata.authorization_response_iss_parameter_supported = True
    metadata.token_endpoint_auth_methods_supported = ["none"]
    metadata.revocation_endpoint_auth_methods_supported = ["none"]
    return MetadataHandler(metadata)


async def authorize(provider: OAuthProvider, request: Request) -> Response:
    """Return mcp's response if it leads to one of our pages, else an error page.

    Never redirects to the client: anybody may register one, so until a person has been asked,
    our host would be an open redirector (RFC 9700 section 4.11.2).
    """
    response = await AuthorizationHandler(provider).handle(request)
    location = response.headers.get("location")
    if location is None:
        said = json.loads(bytes(response.body))
    elif location.startswith(str(provider.base_url)):
        return response
    else:
        said = {name: texts[0] for name, texts in parse_qs(urlsplit(location).query).items()}
    return pages.failure(
        f"The client's request can't be answered: {said.get('error')}."
        f" {said.get('error_description')}"
    )


class PublicClients(ClientAuthenticator):
    """Lets clients without a secret revoke tokens; mcp's handler requires one in the form."""

    async def authenticate_request(self, request: Request) -> OAuthClientInformationFull:
        """The client that sent a request; adds an empty secret to its form."""
        client = await super().authenticate_request(request)
        form = await request.form()
        request._form = FormData([*form.multi_items(), ("client_secret", "")])
        return client
