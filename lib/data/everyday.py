"""Everyday English-French sentence pairs, made from templates and the word forms of pyrealb.

A row of ROWS holds one template a language and says what fills its slots: clauses ({A}, {B}), planned once for both
languages and put into words by `english` and `french`, or noun phrases ({kin}, {thing}). pyrealb gives every
inflected word; word order, negation, clitics and agreement are done here, since pyrealb is slow and uneven at them.
"""
import random
import re
from functools import cache
from typing import NamedTuple

from pyrealb import NO, A, N, V, addToLexicon, getLemma, loadEn, loadFr

# Lexicon. NOUNS: ~ no plural (mass noun), ^ plural only, _ never counted nor indefinite. A verb is
# english=french=complements=flags; flags: s stative, i imparfait in the past, n no progressive, o one-off (no habit),
# p place, w company, l hour, h manner, t time, a also animals, k a skill, g strong pronoun, d "to" only, y impersonal.
NOUNS = """
food: apple=pomme, orange=orange, egg=œuf, cake=gâteau, sandwich=sandwich, pizza=pizza, banana=banane, tomato=tomate,
 carrot=carotte, pear=poire, strawberry=fraise, cookie=biscuit, ~bread=pain, ~cheese=fromage, ~rice=riz, ~meat=viande,
 ~fish=poisson, ~chicken=poulet, ~soup=soupe, ~salad=salade, ~chocolate=chocolat, ~ham=jambon, ~ice cream=glace
drink: ~water=eau, ~milk=lait, ~coffee=café, ~tea=thé, ~wine=vin, ~beer=bière, ~orange juice=jus d'orange
read: book=livre, newspaper=journal, magazine=magazine, novel=roman, article=article, story=histoire, poem=poème
mail: letter=lettre, message=message, postcard=carte postale, email=courriel
watch: movie=film, match=match, show=émission, documentary=documentaire
song: song=chanson, ~music=musique, record=disque
clothes: shirt=chemise, dress=robe, coat=manteau, hat=chapeau, sweater=pull, skirt=jupe, jacket=veste, tie=cravate,
 scarf=écharpe, ^shoe=chaussure, ^sock=chaussette, ^boot=botte, ^glove=gant, ^glass=lunette
car: car=voiture, truck=camion
ride: _train=train, _bus=bus, _plane=avion, _boat=bateau
machine: bike=vélo, motorcycle=moto, computer=ordinateur, radio=radio, clock=horloge, washing machine=machine à laver
thing: key=clé, phone=téléphone, umbrella=parapluie, bag=sac, watch=montre, wallet=portefeuille, camera=appareil photo,
 pen=stylo, pencil=crayon, notebook=cahier, ticket=billet, map=carte, ring=bague, toy=jouet, ball=ballon, knife=couteau,
 suitcase=valise, passport=passeport, dictionary=dictionnaire, guitar=guitare, photo=photo, ladder=échelle
furniture: table=table, chair=chaise, bed=lit, lamp=lampe, mirror=miroir, desk=bureau, armchair=fauteuil, sofa=canapé
fragile: cup=tasse, glass=verre, bottle=bouteille, plate=assiette, vase=vase
device: _light=lumière, _lamp=lampe, _radio=radio, _computer=ordinateur, _oven=four, _heating=chauffage
open: _door=porte, _window=fenêtre, _box=boîte, _drawer=tiroir, _suitcase=valise, _bag=sac, _store=magasin
room: _kitchen=cuisine, _bedroom=chambre, _bathroom=salle de bain, _living room=salon, _house=maison, _garage=garage,
 _office=bureau, _apartment=appartement, _garden=jardin
kin: brother=frère, sister=sœur, ~mother=mère, ~father=père, uncle=oncle, aunt=tante, cousin=cousin, son=fils,
 daughter=fille, ~grandmother=grand-mère, ~grandfather=grand-père, friend=ami, neighbor=voisin, ~boss=patron,
 teacher=professeur, ^parent=parent, ^child=enfant
role: man=homme, woman=femme, boy=garçon, girl=fille, child=enfant, student=étudiant, doctor=médecin, tourist=touriste,
 policeman=policier, waitress=serveuse, baker=boulanger, actress=actrice
animal: dog=chien, cat=chat, horse=cheval, bird=oiseau, rabbit=lapin, cow=vache, mouse=souris, duck=canard
gift: gift=cadeau, book=livre, flower=fleur, toy=jouet, watch=montre, ring=bague, guitar=guitare, bike=vélo
abstract: problem=problème, lesson=leçon, exercise=exercice, rule=règle, sentence=phrase, question=question
sight: _museum=musée, _castle=château, _church=église, _city=ville, _island=île, _village=village, _cathedral=cathédrale
shop: bakery=boulangerie, bank=banque, pharmacy=pharmacie, hotel=hôtel, restaurant=restaurant, museum=musée, park=parc
event: _meeting=réunion, _concert=concert, _movie=film, _class=cours, _party=fête, _match=match, _show=spectacle
plant: flower=fleur, tree=arbre, rose=rose, apple tree=pommier
"""
ADJECTIVES = """
food: good=bon, delicious=délicieux, big=gros, small=petit, excellent=excellent, fresh=frais
drink: good=bon, cold=froid, hot=chaud, excellent=excellent
read: interesting=intéressant, long=long, boring=ennuyeux, funny=drôle, old=vieux, new=nouveau, short=court, good=bon
mail: long=long, short=court, important=important, interesting=intéressant
watch: interesting=intéressant, boring=ennuyeux, good=bon, old=vieux, funny=drôle, excellent=excellent
song: beautiful=beau, old=vieux, sad=triste, new=nouveau
clothes: new=nouveau, old=vieux, beautiful=beau, red=rouge, black=noir, white=blanc, blue=bleu, green=vert, warm=chaud,
 expensive=cher, pretty=joli, gray=gris, dirty=sale
car: new=nouveau, old=vieux, small=petit, red=rouge, white=blanc, fast=rapide, expensive=cher, beautiful=beau
machine: new=nouveau, old=vieux, expensive=cher, small=petit, modern=moderne
thing: new=nouveau, old=vieux, small=petit, beautiful=beau, black=noir, red=rouge, expensive=cher, useful=utile
furniture: new=nouveau, old=vieux, small=petit, big=grand, beautiful=beau, comfortable=confortable, modern=moderne
fragile: small=petit, big=grand, beautiful=beau, clean=propre, dirty=sale, old=vieux
room: big=grand, small=petit, clean=propre, modern=moderne, beautiful=beau, quiet=calme, old=vieux
role: young=jeune, old=vieux, nice=gentil, French=français, American=américain, intelligent=intelligent
animal: big=gros, small=petit, black=noir, white=blanc, old=vieux, young=jeune, intelligent=intelligent
gift: beautiful=beau, expensive=cher, small=petit, pretty=joli
abstract: simple=simple, difficult=difficile, important=important, interesting=intéressant, new=nouveau
sight: old=vieux, beautiful=beau, small=petit, famous=célèbre, big=grand
shop: new=nouveau, good=bon, small=petit, big=grand
event: long=long, interesting=intéressant, important=important, boring=ennuyeux
person: tired=fatigué, happy=heureux, sad=triste, sick=malade, rich=riche, poor=pauvre, tall=grand, young=jeune,
 busy=occupé, ready=prêt, angry=en colère, nervous=nerveux, alone=seul, kind=gentil, intelligent=intelligent,
 strong=fort, lazy=paresseux, famous=célèbre, married=marié, serious=sérieux, polite=poli, shy=timide, funny=drôle,
 worried=inquiet, proud=fier, curious=curieux, patient=patient, calm=calme, surprised=surpris, French=français,
 American=américain, Japanese=japonais, German=allemand, Canadian=canadien, jealous=jaloux, honest=honnête
compared: tall=grand, rich=riche, young=jeune, old=âgé, strong=fort, intelligent=intelligent, kind=gentil, funny=drôle,
 lazy=paresseux, famous=célèbre, serious=sérieux, patient=patient, calm=calme, polite=poli, happy=heureux
effort: easy=facile, difficult=difficile, important=important, dangerous=dangereux, impossible=impossible, good=bon
jobs: teacher=professeur, nurse=infirmier, lawyer=avocat, student=étudiant, journalist=journaliste, dentist=dentiste,
 actor=acteur, singer=chanteur, waiter=serveur, baker=boulanger, musician=musicien, artist=artiste, writer=écrivain,
 architect=architecte, cook=cuisinier, pilot=pilote, photographer=photographe, secretary=secrétaire
"""
VERBS = """
do: eat=manger=food=pwha, drink=boire=drink=pwa, order=commander=food+drink=p, buy=acheter=food+drink+thing+clothes=p,
 buy=acheter=car+furniture+read+machine=o, cut=couper=food, bring=apporter=food+drink+gift=n, prepare=préparer=food,
 read=lire=read=p, write=écrire=mail=p, receive=recevoir=mail+gift=no, watch=regarder=watch=pw,
 listen to=écouter=song=pw, sing=chanter=song=p, wear=porter=clothes=p, put ~on=mettre=clothes, wash=laver=clothes+car,
 take ~off=enlever=clothes, try ~on=essayer=clothes=o, choose=choisir=clothes+gift+read=no, drive=conduire=car=h,
 repair=réparer=car+machine=h, sell=vendre=car+machine+furniture=o, find=trouver=thing+animal=nop,
 lose=perdre=thing+clothes=nop, look for=chercher=thing+animal=p, break=casser=fragile+furniture=no,
 forget=oublier=thing+clothes=nop, hide=cacher=thing+gift=op, borrow=emprunter=thing+car=o, use=utiliser=thing+machine,
 steal=voler=thing+car+machine=no, turn ~on=allumer=device, turn ~off=éteindre=device, open=ouvrir=open=h,
 close=fermer=open=h, clean=nettoyer=room+fragile=h, paint=peindre=room+furniture=o, draw=dessiner=animal+plant=p,
 visit=visiter=sight=w, take=prendre=ride=w, miss=rater=ride=no, wait for=attendre=ride=p, feed=nourrir=animal,
 see=voir=watch+animal+sight=no, answer=répondre à=abstract+mail=o, explain=expliquer=abstract=o, water=arroser=plant,
 learn=apprendre=LANG=p, study=étudier=LANG=pw, finish=finir=read+abstract=no, plant=planter=plant=o,
 start=commencer=read+abstract=no, fill=remplir=fragile, carry=porter=furniture+thing, photograph=photographier=animal,
 prefer=préférer=GEN=si, like=aimer=GEN=si, love=adorer=GEN=si, hate=détester=GEN=si, speak=parler=SPEAK=ks,
 have=avoir=thing+car+animal+machine+read=si, want=vouloir=food+drink+thing+gift=si, cook=cuisiner=food,
 need=avoir besoin de=food+thing+machine=si, understand=comprendre=abstract=s, look at=regarder=photo+animal+sight
people: see=voir=person=nop, meet=rencontrer=person=nop, help=aider=person, call=appeler=person, invite=inviter=person=n,
 wait for=attendre=person=p, thank=remercier=person=n, listen to=écouter=person, look at=regarder=person,
 kiss=embrasser=person=o, visit=rendre visite à=person=w, talk to=parler à=person=p, write to=écrire à=person,
 answer=répondre à=person=no, follow=suivre=person=o, hear=entendre=person=no, think about=penser à=person=g,
 take care of=s' occuper de=person=g, play with=jouer avec=person=p, work with=travailler avec=person=p,
 dance with=danser avec=person=p, travel with=voyager avec=person, live with=vivre avec=person=, phone=téléphoner à=person,
 remember=se souvenir de=person=sg, trust=faire confiance à=person=s, know=connaître=person=si, love=aimer=person=si,
 hate=détester=person=si, admire=admirer=person=si, believe=croire=person=si, understand=comprendre=person=s,
 forgive=pardonner à=person=no, look for=chercher=person=p, find=trouver=person=nop, need=avoir besoin de=person=sig
dative: give=donner=gift+fragile=n, show=montrer=thing+read+gift, send=envoyer=mail+gift, lend=prêter=thing+read+car=n,
 offer=offrir=gift=n, bring=apporter=food+drink+gift=n, sell=vendre=car+machine=no, read=lire=read, explain=expliquer=abstract=d,
 write=écrire=mail, return=rendre=thing+read=dno, leave=laisser=thing+mail=n
intr: sleep=dormir==pa, work=travailler==pwh, run=courir==pah, walk=marcher==pwh, swim=nager==wk, dance=danser==pwk,
 sing=chanter==pwk, cry=pleurer==p, laugh=rire==w, smile=sourire, travel=voyager==w, wait=attendre==p, cook=cuisiner==k,
 study=étudier==pw, eat=manger==pwha, leave=partir==lwn, go out=sortir==wl, come=venir==wl, come back=revenir==wl,
 fall=tomber==noap, smoke=fumer==p, shout=crier==p, talk=parler==wh, drive=conduire==hk, come home=rentrer à la maison==l,
 go home=rentrer à la maison==lw, work hard=travailler dur==p, have lunch=déjeuner==pwl, have dinner=dîner==pwl,
 get up=se lever==l, wake up=se réveiller==l, go to bed=se coucher==l, get dressed=s' habiller==h, hurry=se dépêcher==n,
 rest=se reposer==p, have fun=s' amuser==pw, fall asleep=s' endormir==npl, go for a walk=se promener==pw,
 get married=se marier==no, shave=se raser==l, wash one's hands=se laver les mains==h, arrive=arriver==nl,
 brush one's teeth=se brosser les dents==h, take a shower=prendre une douche==l, take a bath=prendre un bain==l,
 have breakfast=prendre le petit déjeuner==pwl, do the dishes=faire la vaisselle==wh, do one's homework=faire ses devoirs==pwh,
 go shopping=faire les courses==w, play cards=jouer aux cartes==pw, play soccer=jouer au football==wk,
 play tennis=jouer au tennis==wk, play chess=jouer aux échecs==wk, play the piano=jouer du piano==k, pay the bill=payer l'addition==,
 play the guitar=jouer de la guitare==k, play the violin=jouer du violon==k, do the laundry=faire la lessive==,
 make one's bed=faire son lit==h, take pictures=prendre des photos==p, set the table=mettre la table==, tell the truth=dire la vérité==n,
 ride a bike=faire du vélo==kw, listen to the radio=écouter la radio==p, watch TV=regarder la télévision==pw,
 make a mistake=faire une erreur==no, take a trip=faire un voyage==w, go skiing=faire du ski==w, take a break=faire une pause==,
 change one's mind=changer d'avis==no, learn to swim=apprendre à nager==, learn to drive=apprendre à conduire==,
 play in the snow=jouer dans la neige==wa, go swimming=aller nager==w, clean the house=faire le ménage==,
 play video games=jouer aux jeux vidéo==w, lose weight=perdre du poids==n, earn money=gagner de l'argent==
motion: go=aller=TO=wlb, go=aller=TO=w, return=retourner=TO=w, stay=rester=AT=w, walk to school=aller à l'école à pied==w
stat: have time=avoir le temps==si, live=habiter=AT=si, have money=avoir de l'argent==si, have a headache=avoir mal à la tête==sit,
 have a cold=avoir un rhume==sit, know=connaître=person=si, have=avoir=COUNT=si, have a fever=avoir de la fièvre==sit
be: be=être=ADJ=sit, be=être=ADJ=si, be=être=JOB=si, be=être=AT=sit, be=avoir=AGE=si, be=être=CMP=si, be late=être en retard==sit,
 be hungry=avoir faim==sit, be thirsty=avoir soif==sit, be cold=avoir froid==sit, be right=avoir raison==si,
 be sleepy=avoir sommeil==sit, be lucky=avoir de la chance==si, be early=être en avance==sit, be on vacation=être en vacances==sit,
 be wrong=avoir tort==si, be afraid of dogs=avoir peur des chiens==si
reason: be hungry=avoir faim==si, be tired=être fatigué=TIRED=si, have a headache=avoir mal à la tête==si, be cold=avoir froid==si,
 be sleepy=avoir sommeil==si, be late=être en retard==si, have time=avoir le temps==si, need money=avoir besoin d'argent==si,
 be thirsty=avoir soif==si, be afraid=avoir peur==si, have to work=devoir travailler==si, be on vacation=être en vacances==si
weather: rain=pleuvoir==y, snow=neiger==y, be cold=faire froid==yit, be hot=faire chaud==yit, be windy=faire du vent==yit,
 be sunny=faire du soleil==yit, be dark=faire nuit==yin, be foggy=faire du brouillard==yit
quality: be=être=ADJ=si
spot: be=être=LOC=si
start: start=commencer=CLOCK=n, end=finir=CLOCK=n
owned: belong to=appartenir à=person=si
ask: ask=demander à=person=no
tell: tell=dire à=person=no
advise: advise=conseiller à=person=no
say: say=dire==no
"""
# English phrase=French phrase, by slot or complement. PLACE: where=whither=French for both.
PHRASES = """
NAME: Tom=Tom, Mary=Marie, Paul=Paul, Alice=Alice, John=John, Emma=Emma, Lucas=Lucas, Sophie=Sophie, David=David,
 Anna=Anna, Jack=Jack, Julie=Julie
PLACE: at school=to school=à l'école, at home=home=à la maison, in the park=to the park=au parc, in Paris=to Paris=à Paris,
 in London=to London=à Londres, in France=to France=en France, in Japan=to Japan=au Japon, here=here=ici, there=there=là-bas,
 in the United States=to the United States=aux États-Unis, at the beach=to the beach=à la plage, in Italy=to Italy=en Italie,
 at the hospital=to the hospital=à l'hôpital, at the restaurant=to the restaurant=au restaurant,
 at the office=to the office=au bureau, at the library=to the library=à la bibliothèque, in Canada=to Canada=au Canada,
 at the market=to the market=au marché, at the station=to the station=à la gare, in Germany=to Germany=en Allemagne,
 at the airport=to the airport=à l'aéroport, at the hotel=to the hotel=à l'hôtel, in town=into town=en ville,
 in the garden=into the garden=dans le jardin, in the kitchen=into the kitchen=dans la cuisine,
 at the swimming pool=to the swimming pool=à la piscine, abroad=abroad=à l'étranger, at church=to church=à l'église,
 in the mountains=to the mountains=à la montagne, in the country=to the country=à la campagne,
 at my grandmother's=to my grandmother's=chez ma grand-mère, at Tom's place=to Tom's place=chez Tom
BY: by car=en voiture, by train=en train, by bus=en bus, by bike=à vélo, on foot=à pied, by plane=en avion
HOW: slowly=lentement, quickly=rapidement, carefully=soigneusement, quietly=en silence, calmly=calmement
LANG: French=le français, English=l'anglais, Spanish=l'espagnol, German=l'allemand, history=l'histoire, Japanese=le japonais
SPEAK: French=français, English=anglais, Spanish=espagnol, German=allemand, Japanese=japonais, Italian=italien
ON: on=sur, under=sous, in front of=devant, behind=derrière, next to=à côté de, near=près de
past: yesterday=hier, last week=la semaine dernière, last night=hier soir, this morning=ce matin, last year=l'année dernière,
 last Saturday=samedi dernier, yesterday morning=hier matin, last month=le mois dernier, last summer=l'été dernier
future: tomorrow=demain, tonight=ce soir, next week=la semaine prochaine, tomorrow morning=demain matin, soon=bientôt,
 this afternoon=cet après-midi, next year=l'année prochaine, next month=le mois prochain, on Monday=lundi, later=plus tard
pres: every day=tous les jours, every morning=tous les matins, on Sundays=le dimanche, every week=toutes les semaines,
 every evening=tous les soirs, in the afternoon=l'après-midi, once a week=une fois par semaine, from time to time=de temps en temps
now: now=maintenant, at the moment=en ce moment, today=aujourd'hui, right now=en ce moment
state: today=aujourd'hui, this morning=ce matin, tonight=ce soir
often: often=souvent, always=toujours, sometimes=parfois, rarely=rarement
degree: very=très, too=trop, so=si, really=vraiment, a little=un peu
more: a lot of=beaucoup de, many=beaucoup de, several=plusieurs, a few=quelques, two=deux, three=trois, four=quatre, ten=dix,
 too many=trop de
much: a lot of=beaucoup de, a little=un peu de, too much=trop de, enough=assez de
cup: a cup of=une tasse de, a glass of=un verre de, a bottle of=une bouteille de
day: Monday=lundi, Tuesday=mardi, Wednesday=mercredi, Thursday=jeudi, Friday=vendredi, Saturday=samedi, Sunday=dimanche
month: January=janvier, March=mars, April=avril, May=mai, June=juin, July=juillet, September=septembre, October=octobre
"""
# Tenses, as name=English auxiliary and verb=French tense=time adverbs=limits=weight. Verb forms: b base, n participle,
# g -ing. French: "past" is pc or i by the verb; any words before the tense are a verb that takes the infinitive.
# Limits: s also with stative verbs, y also weather, g no with verbs marked n, h not with verbs marked o, k skills only,
# - never negative, ! always negative, ? never asked.
TENSES = """
tense: pres=do b=p=pres=syh=14, past=did b=past=past=sy=22, prog=be g=p=now=yg=9, pprog=was g=i==yg=4, perf=have n=pc===7,
 fut=will b=f=future=sy=9, going=be going to b=aller p=future=y=8, cond=would b=c==s=2, can=can b=pouvoir p=future==5,
 could=could b=pouvoir c=future=-=2, couldnt=could b=pouvoir pc=past=!?=2, must=must b=devoir p==?=3, plup=had n=pq==?=1,
 want=do want to b=vouloir p=future==4, wanted=did want to b=vouloir i===2, like=do like to b=aimer p==gh=2,
 haveto=do have to b=devoir p=future=-=4, hadto=did have to b=devoir pc=past=-=2, should=should b=devoir c=future==4,
 need=do need to b=avoir besoin de p===2, love=do love g=adorer p==gh-=1, hate=do hate g=détester p==gh-?=1,
 wouldlike=would like to b=vouloir c=future==4, used=did use to b=i==sh-?=2, just=have just n=venir de p==-?=2,
 try=be trying to b=essayer de p==g-=1, tried=did try to b=essayer de pc=past=g-=1, forgot=did forget to b=oublier de pc==-=1,
 decided=did decide to b=décider de pc==-=1, started=did start g=commencer à pc==g-=1, stopped=did stop g=arrêter de pc==g-?=1,
 hope=do hope to b=espérer p=future=-?=1, able=will be able to b=pouvoir f=future==1, know=do know how to b=savoir p==k=6,
 willhave=will have to b=devoir f=future=-=1, about=be about to b=être sur le point de p==-?=1,
 condperf=would have n=cp==?=1, shouldhave=should have n=devoir cp==?=1, subj=do b=s==s-?=0
"""
PRONOUNS = """
pro: I=me=my=je=me=me=moi=mon ma mes, you=you=your=tu=te=te=toi=ton ta tes, he=him=his=il=le=lui=lui=son sa ses,
 we=us=our=nous=nous=nous=nous=notre notre nos, you=you=your=vous=vous=vous=vous=votre votre vos,
 they=them=their=ils=les=leur=eux=leur leur leurs, she=her=her=elle=la=lui=elle=son sa ses,
 it=it=its=il=le=lui=lui=son sa ses, it=it=its=elle=la=lui=elle=son sa ses,
 they=them=their=elles=les=leur=elles=leur leur leurs
"""
DETERMINERS = """
det: the=the=le la les, a=some=un une des, some=some=de·le de·la des, this=these=ce cette ces, that=those=ce cette ces,
 =many=combien·de
"""
