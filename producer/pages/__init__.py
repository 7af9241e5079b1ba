"""Pages for people, beside the API: `resnextq serve` shows them, `resnextq report` writes one.

site      the pages and the API as one application, divided by path
gate      checks the login, and adds the headers of each answer
sessions  logins, named by cookies, and links that log in once, in SQL
login     the page that takes a key
forms     a form of a page: its fields, files and token
start     the list of jobs, and the form that creates one
intake    pasted text, dropped or chosen files → the images of a job
job       a job's live page, and the actions of its buttons
picture   one image, and its thumbnail
fleet     the workers
view      the data that a job's page and its report show
gallery   which images of a job are shown, page by page
charts    numbers → the shapes of an SVG
html      templates, and the formatting of values in them
report    a job's page as one file
write     a job as one file: the report, or its answers for other programs
"""
