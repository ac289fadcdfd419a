{{/* An entry point's `http`: whether it takes TLS is said by a switch as in Traefik's chart, or by naming it. */}}
{{- define "wayspan.http" -}}
{{- $http := default dict .http | deepCopy -}}
{{- if kindIs "map" $http.tls -}}
{{- if eq (dig "enabled" true $http.tls) false -}}{{- $http = omit $http "tls" -}}{{- else -}}{{- $_ := set $http "tls" (omit $http.tls "enabled") -}}{{- end -}}
{{- else -}}{{- $http = omit $http "tls" -}}
{{- end -}}
{{- toYaml $http -}}
{{- end -}}

{{/* The agent's configuration file. */}}
{{- define "wayspan.config" -}}
{{- $root := . -}}
{{- $values := .Values -}}
{{- $entryPoints := dict -}}
{{- range $name, $port := omit $values.ports "api" -}}
{{- $entry := dict "address" (include "wayspan.address" (list $root $port)) -}}
{{- range $key := list "forwardedHeaders" "observability" -}}
{{- with index $port $key -}}{{- $_ := set $entry $key . -}}{{- end -}}
{{- end -}}
{{- with include "wayspan.transport" (list $root $name $port) | fromYaml -}}{{- $_ := set $entry "transport" . -}}{{- end -}}
{{- with include "wayspan.http" $port | fromYaml -}}{{- $_ := set $entry "http" . -}}{{- end -}}
{{- with without (include "wayspan.publishedPorts" (list $root $name $port) | fromJsonArray) (include "wayspan.listen" (list $root $port) | float64) -}}{{- $_ := set $entry "publishedPorts" . -}}{{- end -}}
{{- $_ := set $entryPoints $name $entry -}}
{{- end -}}
{{- $config := dict "entryPoints" $entryPoints -}}

{{- $providers := dict -}}
{{- range $key := list "kubernetesCRD" "kubernetesIngress" "kubernetesGateway" -}}
{{- $given := index $values.providers $key -}}
{{- if $given.enabled -}}
{{- $provider := dict -}}
{{- range $name, $value := omit $given "enabled" "publishedService" "ingressEndpoint" "statusAddress" -}}
{{- if kindIs "map" $value -}}
{{- $set := dict -}}
{{- range $inner, $text := $value -}}{{- if $text -}}{{- $_ := set $set $inner $text -}}{{- end -}}{{- end -}}
{{- if $set -}}{{- $_ := set $provider $name $set -}}{{- end -}}
{{- else if or $value (kindIs "bool" $value) -}}{{- $_ := set $provider $name $value -}}
{{- end -}}
{{- end -}}
{{- if eq $key "kubernetesIngress" -}}
{{- with include "wayspan.ingressEndpoint" $root | fromYaml -}}{{- $_ := set $provider "ingressEndpoint" . -}}{{- end -}}
{{- end -}}
{{- if eq $key "kubernetesGateway" -}}
{{- $_ := set $provider "openPorts" (eq (include "wayspan.openPorts" $root) "true") -}}
{{- with include "wayspan.statusAddress" $root | fromYaml -}}{{- $_ := set $provider "statusAddress" . -}}{{- end -}}
{{- end -}}
{{- if $values.rbac.namespaced -}}
{{- if not $provider.namespaces -}}{{- $_ := set $provider "namespaces" (include "wayspan.namespaces" $root | fromJsonArray) -}}{{- end -}}
{{- if and (eq $key "kubernetesIngress") (not $provider.ingressClass) $values.ingressClass.enabled -}}{{- $_ := set $provider "ingressClass" $values.ingressClass.name -}}{{- end -}}
{{- end -}}
{{- $_ := set $providers $key $provider -}}
{{- end -}}
{{- end -}}
{{- if $values.providers.file.content -}}
{{- $_ := set $providers "file" (dict "filename" "routes.yaml") -}}
{{- end -}}
{{- if $providers -}}{{- $_ := set $config "providers" $providers -}}{{- end -}}

{{- $tracing := dict "serviceName" $values.tracing.serviceName "addInternals" $values.tracing.addInternals -}}
{{- with include "wayspan.sampleRate" . -}}{{- $_ := set $tracing "sampleRate" (float64 .) -}}{{- end -}}
{{- range $key := list "resourceAttributes" "capturedRequestHeaders" "capturedResponseHeaders" "safeQueryParams" -}}
{{- with index $values.tracing $key -}}{{- $_ := set $tracing $key . -}}{{- end -}}
{{- end -}}
{{- $otlp := dict -}}
{{- if $values.tracing.otlp.enabled -}}
{{- if not (or $values.tracing.otlp.grpc.enabled $values.tracing.otlp.http.enabled (dig "tracing" "otlp" "" $values.config)) -}}
{{- fail "tracing.otlp.enabled: set tracing.otlp.grpc.enabled or tracing.otlp.http.enabled, too: nothing would be sent" -}}
{{- end -}}
{{- range $key := list "grpc" "http" -}}
{{- $given := index $values.tracing.otlp $key -}}
{{- if $given.enabled -}}
{{- $way := dict -}}
{{- range $name, $value := omit $given "enabled" -}}{{- if $value -}}{{- $_ := set $way $name $value -}}{{- end -}}{{- end -}}
{{- $_ := set $otlp $key $way -}}
{{- end -}}
{{- end -}}
{{- else if include "wayspan.jaegerCollector" . -}}
{{- $_ := set $otlp "grpc" (dict "endpoint" (include "wayspan.jaegerCollector" .) "insecure" true) -}}
{{- end -}}
{{- if $otlp -}}{{- $_ := set $tracing "otlp" $otlp -}}{{- end -}}
{{- with $values.tracing.jaeger.samplingServerURL -}}{{- $_ := set $tracing "jaeger" (dict "samplingServerURL" .) -}}{{- end -}}
{{- $_ := set $config "tracing" $tracing -}}

{{- $name := include "wayspan.fullname" . -}}
{{- $hosts := list (printf "%s-api" $name) (printf "%s-api.%s" $name .Release.Namespace) (printf "%s-api.%s.svc" $name .Release.Namespace) -}}
{{- $api := dict "address" (printf ":%d" (int $values.ports.api.port)) "dashboard" $values.api.dashboard -}}
{{- $_ := set $api "allowedHosts" (concat $hosts $values.api.allowedHosts) -}}
{{- with $values.api.jaegerQuery -}}{{- $_ := set $api "jaegerQuery" . -}}{{- end -}}
{{- $_ := set $config "api" $api -}}
{{- $_ := set $config "ping" dict -}}
{{- if $values.metrics.prometheus.enabled -}}
{{- $prometheus := dict -}}
{{- with $values.metrics.prometheus.buckets -}}{{- $_ := set $prometheus "buckets" . -}}{{- end -}}
{{- $_ := set $config "metrics" (dict "prometheus" $prometheus) -}}
{{- end -}}
{{- $_ := set $config "log" (dict "level" $values.log.level "format" $values.log.format) -}}

{{- if $values.ebpf.enabled -}}
{{- $probes := dict "required" $values.ebpf.required "backends" $values.ebpf.backends "ack" $values.ebpf.ack "timestamps" $values.ebpf.timestamps -}}
{{- with $values.ebpf.slots -}}{{- $_ := set $probes "slots" (int .) -}}{{- end -}}
{{- $_ := set $config "probes" $probes -}}
{{- else -}}
{{- $_ := set $config "probes" "off" -}}
{{- end -}}
{{- $kubernetes := dict -}}
{{- if include "wayspan.routes" . -}}
{{- $status := dict "lease" (include "wayspan.lease" .) -}}
{{- if include "wayspan.byNodes" . -}}{{- $_ := set $status "podSelector" (printf "app.kubernetes.io/name=%s,app.kubernetes.io/instance=%s" (include "wayspan.name" .) .Release.Name) -}}{{- end -}}
{{- $_ := set $kubernetes "status" $status -}}
{{- end -}}
{{- if $values.kubernetesMetadata.enabled -}}
{{- $metadata := dict "enabled" "true" -}}
{{- range $key := list "labels" "annotations" "namespaces" -}}
{{- with index $values.kubernetesMetadata $key -}}{{- $_ := set $metadata $key . -}}{{- end -}}
{{- end -}}
{{- if and $values.rbac.namespaced (not $metadata.namespaces) -}}
{{- $_ := set $metadata "namespaces" (include "wayspan.namespaces" $root | fromJsonArray) -}}
{{- end -}}
{{- $_ := set $kubernetes "metadata" $metadata -}}
{{- else -}}
{{- $_ := set $kubernetes "metadata" (dict "enabled" "false") -}}
{{- end -}}
{{- $_ := set $config "kubernetes" $kubernetes -}}
{{- with $values.attribution -}}{{- $_ := set $config "attribution" . -}}{{- end -}}
{{- with $values.workers -}}{{- $_ := set $config "workers" . -}}{{- end -}}
{{- if $values.seamless -}}{{- $_ := set $config "handOver" (dict "name" (include "wayspan.clusterName" .)) -}}{{- end -}}
{{- toYaml (mergeOverwrite $config (deepCopy $values.config)) -}}
{{- end -}}
