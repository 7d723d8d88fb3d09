<?php // Run SQL lines from standard input through PHP's SQLite3 class or PDO with its defaults: php client.php SQLite3|PDO FILE
[$_, $driver, $file] = $argv;
$db = $driver === 'PDO' ? new PDO("sqlite:$file") : new SQLite3($file);
$driver === 'PDO' ? $db->setAttribute(PDO::ATTR_ERRMODE, PDO::ERRMODE_EXCEPTION) : $db->enableExceptions(true);
$ok = $refused = 0; $error = ''; $started = microtime(true);
foreach (array_filter(explode("\n", stream_get_contents(STDIN))) as $sql) {
    try { $db->exec($sql); $ok++; } catch (Exception $why) { $refused++; $error = $error ?: $why->getMessage(); }
}
echo json_encode(['ok' => $ok, 'refused' => $refused, 's' => microtime(true) - $started, 'error' => $error, 'version' => PHP_VERSION]), "\n";
