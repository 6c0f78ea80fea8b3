# Replaces prom/prometheus by Debian's package if it cannot be fetched.
FROM cellbook-offline
RUN apt-get update && apt-get install --yes --no-install-recommends prometheus \
    && rm -rf /var/lib/apt/lists/* && install --directory --owner prometheus /prometheus
USER prometheus
VOLUME /prometheus
CMD ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
