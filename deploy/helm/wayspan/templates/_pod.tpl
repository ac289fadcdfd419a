{{/* The pod of both kinds of workload. */}}
{{- define "wayspan.pod" -}}
metadata:
  labels:
    {{- include "wayspan.labels" . | nindent 4 }}
    {{- with .Values.deployment.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Most keys need a restart: a changed file rolls the pods. Routes (providers.file.content) are read again as they change.
    checksum/config: {{ include "wayspan.config" . | sha256sum }}
    {{- with .Values.deployment.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "wayspan.serviceAccount" . }}
  # The one container asks the API server, where anything is asked at all.
  automountServiceAccountToken: {{ if include "wayspan.asksApi" . }}true{{ else }}false{{ end }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "wayspan.grace" . }}
  {{- if include "wayspan.hostNetwork" . }}
  hostNetwork: true
  {{- end }}
  {{- $dns := default (ternary "ClusterFirstWithHostNet" "" (eq (include "wayspan.hostNetwork" .) "true")) .Values.deployment.dnsPolicy }}
  {{- with $dns }}
  dnsPolicy: {{ . }}
  {{- end }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.podSecurityContext }}
  securityContext: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: wayspan
      image: {{ include "wayspan.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [run, --config, /etc/wayspan/wayspan.yaml]
      securityContext: {{- include "wayspan.securityContext" . | nindent 8 }}
      env:
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
        - {name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
        - {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
        - {name: CONTAINER_NAME, value: wayspan}
        {{- with .Values.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- if not .Values.seamless }}
      ports:
        {{- range $name, $port := omit .Values.ports "api" }}
        - name: {{ $name }}
          containerPort: {{ include "wayspan.listen" (list $ $port) }}
          {{- with $port.hostPort }}
          hostPort: {{ . }}
          {{- end }}
          {{- with $port.hostIP }}
          hostIP: {{ . | quote }}
          {{- end }}
          protocol: TCP
        {{- end }}
        - name: api
          containerPort: {{ .Values.ports.api.port }}
          protocol: TCP
      {{- else }}
      # No `ports`: a declared one belongs to one pod of the node, and the pod of an update would find no place.
      {{- end }}
      {{- range $probe := list "startupProbe" "readinessProbe" "livenessProbe" }}
      {{ $probe }}:
        {{- $given := deepCopy (index $.Values.deployment $probe) }}
        {{- $waits := and $.Values.seamless (eq $probe "startupProbe") }}
        {{- if $waits }}
        # The pod before listens at the same port: /ping could be answered by it.
        exec: {command: [/usr/local/bin/wayspan, healthcheck]}
        {{- else }}
        {{- if eq $probe "startupProbe" }}
        # One that waits for its routes is not ready, but up: killed it would have to wait again.
        {{- end }}
        httpGet: {path: {{ ternary "/ping" "/ping/up" (eq $probe "readinessProbe") }}, port: {{ $.Values.ports.api.port }}}
        {{- end }}
        {{- if and (eq $probe "startupProbe") (not $given.failureThreshold) }}
        {{- $_ := set $given "failureThreshold" (ternary 3600 60 $waits) }}
        {{- end }}
        {{- toYaml $given | nindent 8 }}
      {{- end }}
      {{- with .Values.resources }}
      resources: {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - {name: config, mountPath: /etc/wayspan, readOnly: true}
        {{- with .Values.deployment.additionalVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ include "wayspan.fullname" . }}}
    {{- with .Values.deployment.additionalVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.topologySpreadConstraints }}
  topologySpreadConstraints: {{- tpl (toYaml .) $ | nindent 4 }}
  {{- end }}
{{- end -}}
