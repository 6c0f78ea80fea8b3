"""Access and rate settings."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, NoDecode

from server.shell.identity.tls import TlsFiles


def _names(value: object) -> object:
    """Reads "name,name"; a TOML list is a sequence already."""
    return tuple(filter(None, (part.strip() for part in value.split(",")))) if isinstance(value, str) else value


NameList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]


class TlsSettings(BaseSettings):
    """The certificate of a process, and those whom it trusts: all of it, or nothing."""

    tls_cert: Path | None = Field(
        default=None, description="PEM file of this process's certificate, as a server and as a client"
    )
    tls_key: Path | None = Field(default=None, description="PEM file of that certificate's key")
    tls_ca: Path | None = Field(default=None, description="PEM file of the roots that sign the certificates of others")

    @property
    def tls(self) -> TlsFiles | None:
        if self.tls_cert is None or self.tls_key is None or self.tls_ca is None:
            return None
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_ca)

    @model_validator(mode="after")
    def _has_all_of_tls(self) -> Self:
        return self.requiring_whole("tls_cert", "tls_key", "tls_ca")

    def requiring_whole(self, *group: str) -> Self:
        """Raises ValueError if only some of these settings are given."""
        given = [name for name in group if getattr(self, name)]
        if given and len(given) < len(group):
            missing = next(name for name in group if name not in given)
            raise ValueError(f"{missing}: needed together with {' and '.join(given)}")
        return self


class SecuritySettings(TlsSettings):
    """With certificates every caller proves its identity; without, each states it and is believed."""

    jwt_keys: str = Field(
        default="", description="file or https URL of the public keys that sign tokens, a JWKS; empty: no tokens"
    )
    jwt_issuer: str = Field(default="", description="the issuer of tokens: the required iss")
    jwt_audience: NameList = Field(
        default=(),
        description="accepted audiences; aud must name one: common and own, as cellbook,cellbook/eu-west",
    )
    jwt_refresh_s: float = Field(
        default=60.0, ge=1, le=86_400, description="how often jwt_keys are read again, in seconds"
    )
    user_calls_per_s: float = Field(
        default=100.0, ge=0, le=1e6, description="work per second of one user or delegate, in plain calls; 0: no limit"
    )
    refused_peers: NameList = Field(
        default=(), description="cells that are cut off as hostile: calls with their certificates are denied"
    )
    client_calls_per_s: float = Field(
        default=0.0, ge=0, le=1e6, description="the same for one service, auditor, operator..; 0: no limit"
    )

    @model_validator(mode="after")
    def _has_all_of_tokens(self) -> Self:
        self.requiring_whole("jwt_keys", "jwt_issuer", "jwt_audience")
        if self.jwt_keys and self.tls_cert is None:
            raise ValueError("tls_cert: needed together with jwt_keys: a token in plain text is anybody's")
        return self
