"""The settings of a console."""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from server.shell.settings.addresses import LOOPBACK, Address, parse_address
from server.shell.settings.host import ENV_PREFIX, AddressText, LogLevel
from server.shell.settings.security import NameList, TlsSettings

PORT, HTTP_PORT = 7405, 80


class ConsoleSettings(TlsSettings):
    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", validate_default=True
    )

    listen: AddressText = Field(
        default=f"{LOOPBACK}:{PORT}", min_length=1, description="host:port to serve on; port 0: any free one"
    )
    insecure_listen: bool = Field(
        default=False, description="serve by http to other machines too (behind a proxy that does https)"
    )
    public_url: str = Field(
        default="",
        pattern=r"^(https?://[A-Za-z0-9.\-\[\]:]+)?$",
        description="the address that browsers know: https://books.example.org; empty: http on listen",
    )
    https_cert: Path | None = Field(default=None, description="PEM file of the certificate to serve https with")
    https_key: Path | None = Field(default=None, description="PEM file of that certificate's key")
    router: AddressText = Field(default=f"{LOOPBACK}:7400", min_length=1, description="host:port of the router")
    keys: Path | None = Field(
        default=None, description="for development: a folder of `cellbook keys dev`; visitors sign in as anybody"
    )
    tls_cert: Path | None = Field(default=None, description="PEM file of the console's certificate, as a client")
    tls_ca: Path | None = Field(default=None, description="PEM file of the roots of router and cells")
    oidc_issuer: str = Field(default="", description="https address of an OpenID provider; empty: none")
    oidc_client_id: str = Field(default="", description="the console's id there")
    oidc_client_secret_file: Path | None = Field(default=None, description="file with the console's secret there")
    oidc_scope: str = Field(default="openid", description="the scopes to ask for")
    oidc_token: Literal["access_token", "id_token"] = Field(
        default="access_token", description="which of the provider's tokens the cells take"
    )
    log_keys: NameList = Field(
        default=(), description="the public keys of the cells' logs, NAME+ID+KEY; empty: as the browser first saw them"
    )
    ready_file: Path | None = Field(default=None, description='file to write once serving: {"pid", "address"}')
    log_level: LogLevel = Field(default="info", description="debug, info, warning or error")

    @model_validator(mode="after")
    def _has_all_of_each_group(self) -> Self:
        self.requiring_whole("https_cert", "https_key").requiring_whole("oidc_issuer", "oidc_client_id")
        if self.keys is not None and self.tls_cert is not None:
            raise ValueError("keys: it has the certificates already: leave out tls_cert, tls_key and tls_ca")
        return self

    @model_validator(mode="after")
    def _is_not_open_to_others(self) -> Self:
        if self.is_local:
            return self
        if self.is_for_development:
            raise ValueError(
                f"listen: {self.listen}: without tls_cert visitors sign in as anybody, so only {LOOPBACK} is allowed"
            )
        if self.https_cert is None and not self.insecure_listen:
            raise ValueError(
                f"https_cert: needed to listen on {self.listen}: by http anybody on the way reads the tokens; "
                "insecure_listen if a proxy before it does https"
            )
        if self.https_cert is None and not self.is_https and not self.is_public_here:
            raise ValueError(
                f"public_url: needed with insecure_listen on {self.listen}: the https address of the proxy, or an http "
                "address of this machine; otherwise browsers send the session by http, and anybody on the way reads it"
            )
        return self

    @property
    def is_local(self) -> bool:
        return parse_address(self.listen).is_loopback

    @property
    def is_public_here(self) -> bool:
        """Browsers come from this machine alone."""
        public = urlsplit(self.public_url)
        return public.hostname is not None and Address(public.hostname, public.port or HTTP_PORT).is_loopback

    @property
    def is_https(self) -> bool:
        """Browsers come by https, to the console or to a proxy before it."""
        return self.https_cert is not None or self.public_url.startswith("https:")

    @property
    def is_for_development(self) -> bool:
        """Visitors sign in by naming a role: the cells believe everybody, or the console can sign any token."""
        return self.tls_cert is None
