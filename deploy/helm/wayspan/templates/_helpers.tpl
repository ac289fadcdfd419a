{{- define "wayspan.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "wayspan.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "wayspan.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "wayspan.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "wayspan.selector" -}}
app.kubernetes.io/name: {{ include "wayspan.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "wayspan.labels" -}}
{{ include "wayspan.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "wayspan.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "wayspan.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Names of what belongs to the cluster carry the namespace: two releases of one name can stand beside each other. */}}
{{- define "wayspan.clusterName" -}}
{{- printf "%s-%s" (include "wayspan.fullname" .) .Release.Namespace | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "wayspan.image" -}}
{{- $image := .Values.image -}}
{{- $repository := $image.repository -}}
{{- if $image.registry -}}{{- $repository = printf "%s/%s" $image.registry $image.repository -}}{{- end -}}
{{- $tag := default .Chart.AppVersion $image.tag -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else if eq (toString $tag) "latest" -}}
{{- fail "image.tag: latest is refused, since nobody can tell what ran: name a version" -}}
{{- else -}}
{{- printf "%s:%s" $repository (toString $tag) -}}
{{- end -}}
{{- end -}}

{{/* Whether the pod is in the node's network. */}}
{{- define "wayspan.hostNetwork" -}}
{{- if or .Values.hostNetwork .Values.seamless -}}true{{- end -}}
{{- end -}}

{{/* The port that an entry point listens on: in the node's network that is the node's. */}}
{{- define "wayspan.listen" -}}
{{- $root := index . 0 -}}{{- $port := index . 1 -}}
{{- if and (include "wayspan.hostNetwork" $root) $port.hostPort -}}{{ $port.hostPort }}{{- else -}}{{ $port.port }}{{- end -}}
{{- end -}}

{{/* Whether anything of the API server is asked. */}}
{{- define "wayspan.asksApi" -}}
{{- with .Values -}}
{{- if or .providers.kubernetesCRD.enabled .providers.kubernetesIngress.enabled .providers.kubernetesGateway.enabled .kubernetesMetadata.enabled -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether routes come from objects of Kubernetes. */}}
{{- define "wayspan.routes" -}}
{{- with .Values.providers -}}
{{- if or .kubernetesCRD.enabled .kubernetesIngress.enabled .kubernetesGateway.enabled -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* host:port of a collector, from Jaeger's values of Traefik v2. */}}
{{- define "wayspan.jaegerCollector" -}}
{{- $jaeger := .Values.tracing.jaeger -}}
{{- $named := default $jaeger.localAgentHostPort $jaeger.collector.endpoint -}}
{{- if $named -}}
{{- $host := regexReplaceAll "^[a-z]+://" $named "" | regexFind "^[^:/]+" -}}
{{- printf "%s:4317" $host -}}
{{- end -}}
{{- end -}}

{{/* Whole seconds of a duration such as 1m30s, or a number. */}}
{{- define "wayspan.seconds" -}}
{{- $text := toString . -}}
{{- $minutes := regexFind "[0-9]+m([^s]|$)" $text | regexFind "[0-9]+" | default "0" | int -}}
{{- $seconds := regexFind "[0-9]+s" $text | regexFind "[0-9]+" | default "0" | int -}}
{{- $plain := regexFind "^[0-9]+$" $text | default "0" | int -}}
{{- add (mul $minutes 60) $seconds $plain -}}
{{- end -}}

{{/* How long the slowest entry point may take to end, and five seconds to say so. */}}
{{- define "wayspan.grace" -}}
{{- if .Values.deployment.terminationGracePeriodSeconds -}}
{{- .Values.deployment.terminationGracePeriodSeconds -}}
{{- else -}}
{{- $longest := 0 -}}
{{- range $name, $port := omit .Values.ports "api" -}}
{{- $life := dig "transport" "lifeCycle" dict $port -}}
{{- $accept := include "wayspan.seconds" (default "0" $life.requestAcceptGraceTimeout) | int -}}
{{- $grace := include "wayspan.seconds" (default "10s" $life.graceTimeOut) | int -}}
{{- $longest = max $longest (add $accept $grace) -}}
{{- end -}}
{{- add $longest 5 -}}
{{- end -}}
{{- end -}}

{{/* Whether a port below 1024 is listened on by the pod itself. */}}
{{- define "wayspan.low" -}}
{{- $root := . -}}
{{- range $name, $port := .Values.ports -}}
{{- if lt (include "wayspan.listen" (list $root $port) | int) 1024 -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{- define "wayspan.securityContext" -}}
{{- $add := list -}}
{{- if .Values.ebpf.enabled -}}
{{- $add = concat (list "BPF" "PERFMON") .Values.ebpf.extraCapabilities -}}
{{- end -}}
{{- if include "wayspan.low" . -}}{{- $add = append $add "NET_BIND_SERVICE" -}}{{- end -}}
{{- $capabilities := dict "drop" (list "ALL") -}}
{{- if $add -}}{{- $_ := set $capabilities "add" $add -}}{{- end -}}
{{- $context := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" $capabilities -}}
{{- $_ := set $context "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- if or .Values.ebpf.enabled (include "wayspan.low" .) -}}
{{/* Kubernetes gives capabilities to no other user. */}}
{{- $_ := set $context "runAsUser" 0 -}}{{- $_ := set $context "runAsGroup" 0 -}}{{- $_ := set $context "runAsNonRoot" false -}}
{{- else -}}
{{- $_ := set $context "runAsUser" 65532 -}}{{- $_ := set $context "runAsGroup" 65532 -}}{{- $_ := set $context "runAsNonRoot" true -}}
{{- end -}}
{{- toYaml (mergeOverwrite $context .Values.securityContext) -}}
{{- end -}}
