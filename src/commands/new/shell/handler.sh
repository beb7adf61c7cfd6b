# Answers one request. Standard input is the body, standard output is the answer; any exit status but 0 makes it a 500.

echo "$REQUEST_METHOD $PATH_INFO" >&2 # `unifaas logs` shows what goes to standard error
bytes=$(wc -c)
echo "Hello from {name}: $REQUEST_METHOD $PATH_INFO?$QUERY_STRING, $bytes bytes"
